"""Archives, pixels, boxes, tables, trees and ledgers.

Belongs here: what every benchmark and the inversion side need. Knows no dataset, no Dagster and no torch.
"""
