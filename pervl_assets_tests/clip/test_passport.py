import json

import pytest

from pervl_assets.clip.passport import EmbeddingPassport, gather_notes
from pervl_assets_tests.inversion.kit import make_passport

STORED = (
    '{"architecture_sha256": "a", "device": "cpu", "dimension": 3, "model": "m", "open_clip": "3", "pillow": "13", '
    '"precision": "fp32", "preprocessing": "p", "torch": "2", "weights_sha256": "w"}'
)
TODAY = EmbeddingPassport("m", "a", "w", "p", "fp32", "cpu", 3, "2", "3", "13")


def test_a_passport_stored_before_there_were_notes_is_equal_to_todays_to_the_last_byte():
    passport = EmbeddingPassport.from_json(STORED)
    assert passport == TODAY
    assert passport.to_json() == STORED


def test_notes_of_earlier_versions_are_ignored_and_compiled_vectors_are_others():
    noted = {**json.loads(STORED), "preprocessing_effect": 3e-7, "compile_failure": "InductorError"}
    assert EmbeddingPassport.from_json(json.dumps(noted)) == TODAY
    compiled = EmbeddingPassport.from_json(json.dumps({**noted, "torch_compile": True}))
    assert compiled.list_differences(TODAY) == ["torch 2 compiled / 2"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"model": "m", "torch_compile": true}', '{"unknown": 1}'])
def test_other_json_is_no_passport(text):
    with pytest.raises(ValueError, match="not an embedding passport"):
        EmbeddingPassport.from_json(text)


def test_the_batch_size_is_stored_and_not_compared():
    plain, noted = make_passport(), make_passport(batch_size=32)
    assert json.loads(noted.to_json()).keys() - json.loads(plain.to_json()) == {"batch_size"}
    assert EmbeddingPassport.from_json(noted.to_json()).batch_size == 32
    assert noted == plain
    assert plain.list_differences(noted) == []


def test_notes_of_several_passports_are_gathered():
    assert gather_notes(make_passport(), [make_passport(batch_size=size) for size in (8, None, 32)]).batch_size == 32
    assert gather_notes(make_passport(), [make_passport()]).to_json() == make_passport().to_json()
