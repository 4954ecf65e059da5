"""Learning concepts: the inversion model f_theta with its alignment A, and the tuning of concept tokens."""
