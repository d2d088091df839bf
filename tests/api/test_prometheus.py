"""What a Prometheus scrape returns, and whether the dashboard queries exactly that."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify import Retry, batched, totals
from tests.api.scrapes import DASHBOARD, Scraped, Short
from tests.limits import LIMIT
from tests.own_process import output_of_script

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from batchify.prometheus import BatchifyCollector, install

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    found = Scraped()
    end = install(found.registry)
    yield found
    end()


def test_a_scrape_agrees_with_stats(scraped: Scraped) -> None:
    @batched(size=2, linger=None, capacity=10, name="scraped")
    def f(items: list[int]) -> None:
        if 13 in items:
            raise ValueError("secret")

    for future in [f(n) for n in (1, 2, 3, 13)]:
        future.exception(LIMIT)
    f(5).cancel()
    f(6)
    assert scraped.value("batchify_pending_items", "scraped") == 1
    assert scraped.value("batchify_running_items", "scraped") == 0
    assert scraped.value("batchify_capacity_items", "scraped") == 10
    assert scraped.value("batchify_workers", "scraped") == 1
    f.close(LIMIT)
    stats = f.stats()
    assert scraped.value("batchify_submitted_items_total", "scraped") == stats.submitted == 6
    assert scraped.values("batchify_items_total", "scraped") == {
        "succeeded": 3, "failed": 2, "cancelled": 1, "expired": 0, "rejected": 0,
    }  # fmt: skip
    assert scraped.values("batchify_batches_total", "scraped") == dict(stats.reasons)
    assert scraped.values("batchify_batch_failures_total", "scraped") == {"ValueError": 1}
    assert scraped.value("batchify_batch_size_count", "scraped") == 3
    assert scraped.value("batchify_batch_size_sum", "scraped") == 5
    assert scraped.values("batchify_batch_size_bucket", "scraped")["1.0"] == 1
    assert scraped.value("batchify_batch_duration_seconds_count", "scraped") == 3
    ran = stats.ran.mean * 3
    assert scraped.value("batchify_batch_duration_seconds_sum", "scraped") == pytest.approx(ran)
    assert scraped.value("batchify_batch_queue_seconds_count", "scraped") == 3
    assert scraped.value("batchify_retried_items_total", "scraped") == 0
    assert scraped.value("batchify_deduplicated_items_total", "scraped") == 0
    assert scraped.value("batchify_observer_errors_total", "scraped") == 0
    assert "secret" not in scraped.text()
    assert generate_openmetrics(scraped.registry).endswith(b"# EOF\n")


def test_what_is_counted_apart(scraped: Scraped) -> None:
    again = batched(lambda items: [Retry(attempts=2)] * len(items), name="retries")
    again(1).exception(LIMIT)
    twins = batched(lambda items: items, size=2, linger=None, dedupe=True, name="twins")
    assert [future.result(LIMIT) for future in (twins(1), twins(1))] == [1, 1]
    end = again.observe(lambda event: 1 / 0)
    again(1).exception(LIMIT)
    again.close(LIMIT)
    twins.close(LIMIT)
    end()
    assert scraped.value("batchify_retried_items_total", "retries") == 2
    assert scraped.value("batchify_deduplicated_items_total", "twins") == 1
    assert scraped.value("batchify_observer_errors_total", "retries") >= 1


def test_an_unbounded_function_has_no_capacity(scraped: Scraped) -> None:
    f = batched(lambda items: items, capacity=None, name="endless")
    f(1).result(LIMIT)
    assert scraped.values("batchify_capacity_items", "endless") == {}
    assert scraped.value("batchify_pending_items", "endless") == 0
    f.close(LIMIT)


def test_a_registry_has_it_once() -> None:
    registry = CollectorRegistry()
    end = install(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        install(registry)
    end()
    end()
    registry.register(collector := BatchifyCollector())
    f = batched(lambda items: items, name="once")
    f(1).result(LIMIT)
    f.close(LIMIT)
    labels = {"function": "once"}
    assert registry.get_sample_value("batchify_batch_size_count", labels) == 1
    collector.close()
    f.start()
    f(2).result(LIMIT)
    f.close(LIMIT)
    assert registry.get_sample_value("batchify_batch_size_count", labels) == 1
    collector.close()


# ---- sums over engines that come and go ----


def test_counters_never_go_back_when_instances_go(scraped: Scraped) -> None:
    two = Short(), Short()
    assert [one.f(1).result(LIMIT) for one in two] == [1, 1]
    assert scraped.values("batchify_items_total", "short")["succeeded"] == 2
    assert scraped.value("batchify_capacity_items", "short") == 20_000
    for one in two:
        one.f.close(LIMIT)
        with pytest.raises(Exception, match="closed"):
            one.f(2)
    before = scraped.values("batchify_batches_total", "short")
    del two, one
    gc.collect()
    assert scraped.values("batchify_items_total", "short")["succeeded"] == 2
    assert scraped.values("batchify_items_total", "short")["rejected"] == 2
    assert scraped.value("batchify_submitted_items_total", "short") == 4
    assert scraped.values("batchify_batches_total", "short") == before
    assert scraped.value("batchify_capacity_items", "short") == 0


def test_loops_that_end_leave_their_counts(scraped: Scraped) -> None:
    @batched(name="loops")
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        await f(1)

    for count in (1, 2):
        asyncio.run(main())
        gc.collect()
        assert scraped.values("batchify_items_total", "loops")["succeeded"] == count
    assert f(1).result(LIMIT) == 1
    assert scraped.values("batchify_items_total", "loops")["succeeded"] == 3
    f.close(LIMIT)


def test_a_sum_never_falls_while_instances_come_and_go(scraped: Scraped) -> None:
    class Comes:
        @batched(name="comes")
        def f(self, items: list[int]) -> list[int]:
            return items

    rounds = 200
    over = threading.Event()

    def come_and_go() -> None:
        for number in range(rounds):
            Comes().f(number).result()
        over.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    sums = [0]
    while not over.is_set():
        found = totals.totals().get("comes")
        sums.append(0 if found is None else found.succeeded)
    thread.join(LIMIT)
    assert sums == sorted(sums)
    gc.collect()
    assert totals.totals()["comes"].succeeded == rounds


# ---- other processes ----


def run(script: str, **env: str) -> Any:
    """Return the output of a new Python process, parsed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | env, cwd=ROOT, timeout=LIMIT,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_forked_child_counts_from_nothing() -> None:
    assert run("""
import gc, json, os, warnings
from batchify import batched, totals
warnings.simplefilter("ignore")
totals.follow()
class C:
    @batched(name="m")
    def m(self, items): return items
f = batched(lambda items: items, name="f")
gone, stays = C(), C()
[one(1).result() for one in (f, f, gone.m, stays.m)]
del gone; gc.collect()
def told(): return {name: total.succeeded for name, total in totals.totals().items()}
before = told()
read, write = os.pipe()
if not os.fork():
    fresh = told()
    f(1).result(); stays.m(1).result()
    del stays; gc.collect()
    os.write(write, json.dumps([fresh, told()]).encode())
    os._exit(0)
os.wait()
print(json.dumps([before, *json.loads(os.read(read, 9999)), told()]))
""") == [{"f": 2, "m": 2}, {"f": 0, "m": 0}, {"f": 1, "m": 1}, {"f": 2, "m": 2}]


def test_what_works_in_multiprocess_mode(tmp_path: Path) -> None:
    """Histograms and failures of all processes; nothing that a collector alone knows."""
    script = """
import json, os, sys
from batchify import batched
from batchify.prometheus import install
install()
@batched(name="f")
def f(items):
    if 0 in items: raise ValueError
children = []
for number in range(2):
    if not (child := os.fork()):
        f(number).exception(); f.close()
        os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(json.dumps(sorted({s.name: s.value for m in registry.collect() for s in m.samples
    if not s.name.endswith(("_bucket", "seconds_sum"))}.items())))
"""
    assert run(script, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) == [
        ["batchify_batch_duration_seconds_count", 2],
        ["batchify_batch_failures_total", 1],
        ["batchify_batch_queue_seconds_count", 2],
        ["batchify_batch_size_count", 2],
        ["batchify_batch_size_sum", 2],
    ]


# ---- the dashboard ----


def expressions(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from expressions(panel.get("panels", []))


def test_the_dashboard_asks_for_what_is_exported(scraped: Scraped) -> None:
    f = batched(lambda items: items[0], name="dashboard")
    f(1).exception(LIMIT)  # also a failure
    f.close(LIMIT)
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraped.text()):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    board = json.loads(DASHBOARD.read_text("utf-8"))
    asked = [*expressions(board["panels"])]
    asked += [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    names = {name for one in asked for name in re.findall(r"\bbatchify_\w+", one)}
    assert names <= set(exported)
    for one in asked:
        labels = set(re.findall(r"(\w+)=~?\"", one))
        for group in re.findall(r"by \(([\w, ]+)\)", one):
            labels |= {label.strip() for label in group.split(",")}
        for name in re.findall(r"\bbatchify_\w+", one):
            assert labels <= exported[name] | {"job", "instance", "le"}, one
    told = {name for name in exported if not name.endswith(("_created", "_sum", "_count"))}
    assert told - names <= {"batchify_workers", "batchify_submitted_items_total"}


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    (source,) = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert source["query"] == "prometheus"
    assert board["id"] is None
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    uid = {"type": "prometheus", "uid": "${" + source["name"] + "}"}
    places = set()
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == uid
            assert panel["title"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(refs) == len(set(refs))
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in places, panel["title"]
                places.add((x, y))


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "observability.md").read_text("utf-8")
    section = page.partition("## Prometheus")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    assert "install(" in code
    output_of_script(tmp_path, code)  # in its own process, which has no other functions
