"""The commands on other machines: addresses as arguments, --offline and --cache."""

import json

import support

QUICK = ["merge", "--method", "linear"]


def test_a_merge_from_the_web_to_an_object_store_and_back(world, run, file_server, object_store, monkeypatch):
    monkeypatch.delenv("MERGEWISE_OFFLINE")
    for name, arrays in (("e1", world.experts[0]), ("e2", world.experts[1])):
        support.save_model(file_server.folder / name, arrays)
    models = ["--expert", f"{file_server.url}/e1", "--expert", f"{file_server.url}/e2"]
    outcome = run(*QUICK, *models, "s3://bucket/out", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["out"] == "s3://bucket/out"
    assert run("verify", "s3://bucket/out", "--all").code == 0
    assert json.loads(run("inspect", "s3://bucket/out", "--json").out)["tensors"] == len(world.base)
    assert run(*QUICK, "--expert", "e1", "--expert", "e2", "near").code == 0
    assert "0 different" in run("diff", "near", "s3://bucket/out").out
    again = run(*QUICK, *models, "s3://bucket/out")
    assert again.code == 1
    assert "expected a place that is new or empty" in again.err


def test_a_dry_run_of_a_merge_to_an_object_store_sends_nothing(world, run, object_store, monkeypatch):
    monkeypatch.delenv("MERGEWISE_OFFLINE")
    assert run(*QUICK, "--expert", "e1", "--expert", "e2", "s3://bucket/out", "--dry-run").code == 0
    assert not object_store.objects


def test_a_plan_of_a_merge_to_an_object_store_looks_at_the_disk_of_the_cache(world, run, monkeypatch):
    from mergewise.engine import estimate

    asked = []
    monkeypatch.setattr(estimate, "free_bytes", lambda out: asked.append(str(out)) or 0)
    assert run("plan", world.recipe(), "--out", "s3://bucket/out").code == 0
    assert run("plan", "recipe.yaml", "--out", "some/out").code == 0
    assert asked == [str(world.folder.parent / "cache"), "some/out"]


def test_offline_is_an_option(world, run, file_server, monkeypatch):
    monkeypatch.delenv("MERGEWISE_OFFLINE")
    support.save_model(file_server.folder / "e1", world.experts[0])
    outcome = run("inspect", f"{file_server.url}/e1", "--offline")
    assert outcome.code == 1
    assert "this is offline" in outcome.err
    assert not file_server.requests


def test_what_was_read_is_kept_in_a_folder_on_request(world, run, file_server, monkeypatch):
    monkeypatch.delenv("MERGEWISE_OFFLINE")
    support.save_model(file_server.folder / "e1", world.experts[0])
    for _ in range(2):
        before = file_server.sent
        outcome = run("diff", "e1", f"{file_server.url}/e1", "--cache", "kept")
        assert outcome.code == 0
        assert "0 different" in outcome.out
    assert (
        file_server.sent - before < 100
    )  # a byte a file, to see that it is there, and what is said where there is none


def test_a_name_that_leads_nowhere_names_both_places_where_it_was_looked_for(world, run):
    outcome = run(*QUICK, "--expert", "models/e1", "--expert", "e2", "out")
    assert outcome.code == 1
    assert "models/e1: there is no folder or file of that name" in outcome.err
    assert "local cache of the Hub, since this is offline" in outcome.err
