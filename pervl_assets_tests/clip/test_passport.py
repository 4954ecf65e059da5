import json

from pervl_assets.clip.passport import EmbeddingPassport, gather_notes
from pervl_assets_tests.inversion.kit import make_passport

STORED = (
    '{"architecture_sha256": "a", "device": "cpu", "dimension": 3, "model": "m", "open_clip": "3", "pillow": "13", '
    '"precision": "fp32", "preprocessing": "p", "torch": "2", "weights_sha256": "w"}'
)


def test_a_passport_stored_before_there_were_notes_is_equal_to_todays_to_the_last_byte():
    passport = EmbeddingPassport.from_json(STORED)
    assert passport == EmbeddingPassport("m", "a", "w", "p", "fp32", "cpu", 3, "2", "3", "13")
    assert passport.to_json() == STORED


def test_notes_are_stored_and_not_compared():
    plain = make_passport()
    noted = make_passport(preprocessing_effect=0.0, compile_failure="InductorError")
    assert json.loads(noted.to_json()).keys() - json.loads(plain.to_json()) == {
        "preprocessing_effect",
        "compile_failure",
    }
    again = EmbeddingPassport.from_json(noted.to_json())
    assert (again.preprocessing_effect, again.compile_failure) == (0.0, "InductorError")
    assert noted == plain
    assert plain.list_differences(noted) == []


def test_compiling_is_compared():
    plain, compiled = make_passport(), make_passport(torch_compile=True)
    assert plain.list_differences(compiled) == ["torch_compile False / True"]
    assert EmbeddingPassport.from_json(compiled.to_json()) == compiled != plain


def test_notes_of_several_passports_are_gathered():
    passports = [make_passport(preprocessing_effect=effect) for effect in (2e-7, None, 3e-7)]
    gathered = gather_notes(make_passport(), [*passports, make_passport(compile_failure="RuntimeError")])
    assert (gathered.preprocessing_effect, gathered.compile_failure) == (3e-7, "RuntimeError")
    assert gather_notes(make_passport(), [make_passport()]).to_json() == make_passport().to_json()
