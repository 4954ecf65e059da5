"""A million images: what each of them takes besides encoding is little memory and time, and all of it is right."""

import pytest

from pervl_assets_tests.perf.many_images import DIMENSION, run_size

pytestmark = [pytest.mark.scale, pytest.mark.timeout(1800)]

SIZES = (100_000, 1_000_000)


def find_peak(figures):
    return max(stage["peak"] for stage in figures["stages"].values())


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Figures of each size; `run_size` fails if an image, a vector's id or a sentence is lost."""
    return {images: run_size(images, DIMENSION, tmp_path_factory.mktemp("many")) for images in SIZES}


def test_memory_is_that_of_a_shard_and_of_columns_of_ids(figures):
    peaks = [find_peak(figures[images]) for images in SIZES]
    assert peaks[0] < 350e6
    assert peaks[1] < 600e6
    assert (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0]) < 250  # an object of Python for each id would be 60 more


def test_encoding_takes_no_more_memory_for_more_shards(figures):
    small, large = (figures[images]["stages"]["features by shard"]["peak"] for images in SIZES)
    assert figures[SIZES[1]]["shards"] == 10 * figures[SIZES[0]]["shards"]
    assert large < small + 120e6


def test_an_image_takes_no_more_time_among_more(figures):
    small, large = (sum(stage["cpu"] for stage in figures[images]["stages"].values()) / images for images in SIZES)
    assert large < 1.5 * small
