"""Schedules, sensors and propagation: refreshes of a week make the changed assets and no others."""

import dataclasses
import datetime
import json
import os
import shutil
import warnings
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.archives.downloads import Record
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.automation import add_refreshes, stat_inputs
from pervl_assets.defs.downloads import locate_record
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.testing.fake_clip import FakeClip
from pervl_assets.testing.runs import explain, make_settings, run_assets, run_selection

NAMES = "inversion_model_train_data/oidv6-class-descriptions.csv"
BY_HAND = ["youtube_vos/train.zip", "deep_fashion2/train.zip"]
FAKE_CLIP = {"clip": FakeClip()}  # what is encoded when is the point, not the vectors
START = datetime.datetime(2026, 2, 28, tzinfo=datetime.UTC)  # a Saturday


DAYS = 7
SUNDAY, MONDAY, THURSDAY = 1, 2, 5


class Calendar:
    """Time under the test's control, with the schedules, the sensors and the runs that they request."""

    def __init__(self, data, instance, settings):
        self.data, self.instance, self.settings = data, instance, settings
        self.defs = build_definitions(make_settings(data, **settings))
        self.graph = self.defs.resolve_asset_graph()
        self.cursor, self.automation, self.made = None, None, Counter()

    def pass_day(self, day):
        """Evaluate the sensors, and run the schedules that are due."""
        for _ in range(2):
            self._evaluate_sensor()
        for schedule in self.defs.schedules:
            if is_due(schedule, day):
                self._run_schedule(schedule, day)
        self.spread(day)

    def spread(self, day):
        """Refresh what changed, until nothing is left to refresh."""
        for _ in range(20):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = dg.evaluate_automation_conditions(
                    defs=self.defs, instance=self.instance, cursor=self.automation, evaluation_time=day
                )
            self.automation = result.cursor
            requested = {
                key: sorted(filter(None, result.get_requested_partitions(key)))
                for key in self.graph.materializable_asset_keys
                if result.get_num_requested(key)
            }
            if not requested:
                return
            for partitions in {tuple(names) for names in requested.values()}:
                keys = [key for key, names in requested.items() if tuple(names) == partitions]
                self._materialize(keys, partitions)
        raise AssertionError("the refreshes never end")

    def _evaluate_sensor(self):
        (sensor,) = (sensor for sensor in self.defs.sensors if sensor.name == "notice_inputs")
        resources = {"workspace": self.defs.resources["workspace"]}
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources) as context:
            result = sensor(context)
        self.cursor = result.cursor
        for request in result.run_requests:
            self._materialize(request.asset_selection, ())

    def _run_schedule(self, schedule, day):
        job = self.defs.resolve_job_def(schedule.job_name)
        keys = job.asset_layer.executable_asset_keys
        if keys:
            self._materialize(keys, ())
        else:
            assert job.execute_in_process(instance=self.instance).success
            self.made["(verified)"] += 1

    def _materialize(self, keys, partitions):
        tags = [{"dagster/partition": name} for name in partitions] or [{}]
        if partitions and all(self.graph.get(key).backfill_policy == dg.BackfillPolicy.single_run() for key in keys):
            tags = [
                {
                    "dagster/asset_partition_range_start": partitions[0],
                    "dagster/asset_partition_range_end": partitions[-1],
                }
            ]
        for tag in tags:
            chosen = dg.AssetSelection.assets(*keys)
            result = run_assets(self.data, chosen, self.instance, tags=tag, resources=FAKE_CLIP, **self.settings)
            assert result.success, explain(result)
            for event in result.get_asset_materialization_events():
                made = event.step_materialization_data.materialization
                name = made.asset_key.to_user_string()
                self.made[f"{name} [{made.partition}]" if made.partition else name] += 1

    def count(self):
        made, self.made = dict(self.made), Counter()
        return made


def is_due(schedule, day):
    """Return whether a schedule ticks within the 24 hours that begin with `day`."""
    ticks = dg.TimeWindowPartitionsDefinition(
        start=START, cron_schedule=schedule.cron_schedule, fmt="%Y-%m-%d %H:%M", timezone=schedule.execution_timezone
    )
    end = day + datetime.timedelta(days=1)
    return any(
        day <= datetime.datetime.strptime(key, "%Y-%m-%d %H:%M").replace(tzinfo=datetime.UTC) < end
        for key in ticks.get_partition_keys(current_time=end + datetime.timedelta(days=8))
    )


PUBLIC = {
    "raw/pervl_annotations": 1,
    "raw/coco_train2014": 1,
    "raw/coco_svo_triplets": 1,
    "raw/openimages_class_descriptions": 1,
}


def test_a_week_of_refreshes_makes_the_changed_assets_and_no_others(synthetic_raw, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFASHION2_PASSWORD", DEMO_PASSWORD)
    monkeypatch.setattr("pervl_assets.definitions.takes_tokens", lambda model: False)  # as of the fake CLIP
    monkeypatch.setattr("pervl_assets.archives.downloads.choose_pause", lambda *_: 0.0)  # the server's own time
    data = tmp_path / "data"
    for file in BY_HAND:
        (data / file).parent.mkdir(parents=True)
        shutil.copy(synthetic_raw / file, data / file)
    annotations = Path(shutil.copytree(ANNOTATIONS / "demo", tmp_path / "annotations"))
    settings = {
        "profile": "full",
        "annotations": annotations,
        "fetch": mirror.url,
        "top_objects": 3,
        "feature_shards": 2,
        "verify_cron": "0 2 * * 0",  # on Sundays: a whole verification every night would take a while
        "revalidate_cron": "0 3 * * 1,4",  # on Mondays and Thursdays
    }

    def new_names():
        names = mirror.folder / NAMES
        names.write_text(names.read_text() + "/m/0zzzz,Brand new thing\n")

    def new_caption():
        captions = annotations / "ytvos/cleaned_captions_ytvos_val.csv"
        captions.write_text(captions.read_text().replace(" is ", " is really ", 1))
        joint = annotations / "ytvos/ytvos_joint_captions.csv"
        joint.write_text(joint.read_text().replace(" is ", " is really ", 1))

    def touch():
        os.utime(data / BY_HAND[0], (2e9, 2e9))

    def break_server():
        mirror.down = True

    changes = {0: new_names, 3: touch, 4: new_caption, THURSDAY: break_server}  # on Friday nothing happens
    with dg.DagsterInstance.ephemeral() as instance:
        calendar = Calendar(data, instance, settings)
        results = run_selection(data, "*", instance, resources=FAKE_CLIP, **settings)
        assert all(result.success for result in results), explain(*results)
        calendar.spread(START)
        calendar.count()
        table = {}
        for number in range(DAYS):
            if number in changes:
                changes[number]()
            calendar.pass_day(START + datetime.timedelta(days=number))
            table[number] = calendar.count()
    expected = {number: {} for number in range(DAYS)}
    expected[SUNDAY] |= {"(verified)": 1}
    for number in (MONDAY, THURSDAY):
        expected[number] |= PUBLIC
    expected[3] |= {"raw/youtube_vos_train": 1}  # touched: another time, the same directory
    expected[MONDAY] |= name_once(  # a new name, found on Monday: names and matches, no image
        "inversion/openimages_classes",
        "inversion/openimages_malformed_rows",
        "inversion/openimages_text_features",
        "inversion/openimages_matches",
        "palavra/openimages_map",
        "palavra/openimages_names",
        "release/croissant",
        "release/data_card",
    )
    # A caption: the tables are read, and only the trees with captions in them are made again. Of the evaluation its
    # split is made again, and the results of all.
    expected[4] |= name_once(
        "raw/pervl_annotations",
        "ytvos/concepts",
        "ytvos/captions",
        "ytvos/retrieval_set [validation]",
        "ytvos/retrieval_set [test]",
        "ytvos/imagefolder_view [validation]",
        "ytvos/imagefolder_view [test]",
        *(f"evaluation/ytvos/queries [{split}]" for split in ("validation", "test")),
        *(f"evaluation/ytvos/{name} [validation]" for name in ("query_features", "baseline_ranks", "baseline_scores")),
        "evaluation/results",
        "deep_fashion/captions",
        "deep_fashion/few_shot_split",
        "release/croissant",
        "release/data_card",
    )
    assert table == expected


def name_once(*names):
    return dict.fromkeys(names, 1)


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")
def test_an_asset_waits_for_those_above_it_whose_partitions_are_others(tmp_path):
    version = {"images": "1", "captions": "1"}

    def make(name, partitions, *above):
        @dg.asset(
            name=name,
            partitions_def=dg.StaticPartitionsDefinition(partitions) if partitions else None,
            deps=[dg.AssetDep(one, partition_mapping=mapping) for one, mapping in above],
        )
        def asset(): ...

        return asset

    every = dg.AllPartitionMapping()
    assets = [
        make("images", None),
        make("captions", None),
        make("features", ["a", "b"], ("images", None)),
        make("set_encoder", ["1", "2"], ("features", every)),
        make("tokens", ["test"], ("set_encoder", every), ("captions", None)),
    ]
    assets = add_refreshes(assets, (), make_settings(tmp_path))
    keys = {asset.key.to_user_string(): asset for asset in assets}
    with dg.DagsterInstance.ephemeral() as instance:

        def materialize(name):
            tags = {"dagster/data_version": version[name] if name in version else "".join(version.values())}
            of = keys[name].partitions_def
            for partition in of.get_partition_keys() if of else [None]:
                instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=partition, tags=tags))

        def spread(cursor):
            """Refresh what is requested, until nothing is; return the names, evaluation by evaluation."""
            made = []
            while True:
                result = dg.evaluate_automation_conditions(defs=assets, instance=instance, cursor=cursor)
                cursor = result.cursor
                if not result.total_requested:
                    return cursor, made
                made.append([name for name, asset in keys.items() if result.get_num_requested(asset.key)])
                for name in made[-1]:
                    materialize(name)

        for name in keys:
            materialize(name)
        cursor, _ = spread(None)
        version |= {"images": "2", "captions": "2"}
        for name in version:
            materialize(name)
        _, made = spread(cursor)
    assert made == [["features"], ["set_encoder"], ["tokens"]]


def test_a_copy_under_way_is_left_alone_until_it_stays_the_same(synthetic_raw, tmp_path):
    defs = build_definitions(make_settings(tmp_path, profile="full"))
    (sensor,) = (sensor for sensor in defs.sensors if sensor.name == "notice_inputs")
    target = tmp_path / BY_HAND[0]
    target.parent.mkdir(parents=True)
    cursor, requested = None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for size in (1000, 2000, 3000, 3000, 3000):
            if not target.exists() or target.stat().st_size != size:
                target.write_bytes(bytes(size))
            resources = {"workspace": defs.resources["workspace"]}
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                result = sensor(context)
            cursor = result.cursor
            requested.append(
                [key.to_user_string() for request in result.run_requests for key in request.asset_selection]
            )
    assert requested == [[], [], [], ["raw/youtube_vos_train"], []]


def test_a_download_of_the_projects_own_is_nothing_new(tmp_path):
    (spec,) = (spec for spec in list_specs() if spec.file == NAMES)
    target = tmp_path / spec.file
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert list(stat_inputs([spec], tmp_path)) == [spec.name]
    stat = target.stat()
    record = Record("http://127.0.0.1/", stat.st_size, "", "", "", stat.st_mtime_ns)
    locate_record(spec, tmp_path).parent.mkdir(parents=True)
    locate_record(spec, tmp_path).write_text(json.dumps(dataclasses.asdict(record)))
    assert stat_inputs([spec], tmp_path) == {}
    target.write_bytes(b"by hand")
    assert list(stat_inputs([spec], tmp_path)) == [spec.name]


def test_everything_ships_stopped():
    defs = build_definitions(make_settings(Path("nowhere")))
    assert {schedule.name for schedule in defs.schedules} == {
        "revalidate_public_inputs_weekly",
        "verify_results_nightly",
    }
    assert all(schedule.default_status == dg.DefaultScheduleStatus.STOPPED for schedule in defs.schedules)
    assert all(sensor.default_status == dg.DefaultSensorStatus.STOPPED for sensor in defs.sensors)


def test_times_and_zones_are_settings():
    changes = {
        "verify_cron": "5 4 * * *",
        "revalidate_cron": "0 6 1 * *",
        "timezone": "Asia/Tokyo",
        "watch_seconds": 77,
    }
    defs = build_definitions(make_settings(Path("nowhere"), **changes))
    assert {schedule.cron_schedule for schedule in defs.schedules} == {"5 4 * * *", "0 6 1 * *"}
    assert {schedule.execution_timezone for schedule in defs.schedules} == {"Asia/Tokyo"}
    assert {sensor.minimum_interval_seconds for sensor in defs.sensors} == {77}


def test_public_inputs_and_no_others_have_a_freshness_policy():
    defs = build_definitions(make_settings(Path("nowhere"), fresh_days=30))
    graph = defs.resolve_asset_graph()
    policies = {key.to_user_string(): graph.get(key).freshness_policy for key in graph.materializable_asset_keys}
    public = {name: policy for name, policy in policies.items() if policy}
    assert set(public) == set(PUBLIC)
    days = {
        (policy.fail_window.to_timedelta().days, policy.warn_window.to_timedelta().days) for policy in public.values()
    }
    assert days == {(30, 29)}


def test_the_weekly_schedule_keeps_public_inputs_fresh():
    settings = make_settings(Path("nowhere"))
    (schedule,) = (one for one in build_definitions(settings).schedules if one.name.startswith("revalidate"))
    ticks = [day for day in range(15) if is_due(schedule, START + datetime.timedelta(days=day))]
    assert ticks[1] - ticks[0] < settings.fresh_days - 1  # not even a warning before the next one


def test_one_day_has_no_day_before_it_to_warn():
    graph = build_definitions(make_settings(Path("nowhere"), fresh_days=1)).resolve_asset_graph()
    policy = graph.get(dg.AssetKey(["raw", "coco_train2014"])).freshness_policy
    assert (policy.fail_window.to_timedelta(), policy.warn_window) == (datetime.timedelta(days=1), None)
