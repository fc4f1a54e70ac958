"""The TypeScript client keeps what it promises: its own tests, and the first steps of its README."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from commands import run
from store_process import StoreProcess

from agentlightning import LightningStoreClient, get_object_value


@pytest.mark.timeout(300)
def test_its_own_tests_pass(typescript: Path, test_python: dict[str, str]) -> None:
    tests = sorted(str(path) for path in (typescript / "build/test").glob("*.test.js"))
    out = run(["node", "--test", *tests], typescript, test_python)
    counts = dict(re.findall(r"^# (\w+) (\d+)$", out, re.MULTILINE))
    assert counts["pass"] == counts["tests"] != "0", out


def test_the_five_minutes_of_its_readme_work(typescript: Path, tmp_path: Path) -> None:
    readme = (typescript / "README.md").read_text()
    agent = re.search(r"```js\n(.*?)```", readme, re.DOTALL)
    algorithm = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert agent is not None
    assert algorithm is not None
    shown = re.findall(r"^# (.*\[.*\])$", algorithm[1], re.MULTILINE)
    # The package lies beside the script as it would when installed.
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/agentlightning-grpc").symlink_to(typescript)
    server = StoreProcess()
    server.start()
    try:
        (tmp_path / "agent.mjs").write_text(agent[1].replace("127.0.0.1:4747", server.address))
        (tmp_path / "algorithm.py").write_text(algorithm[1].replace("127.0.0.1:4747", server.address))
        runner = subprocess.Popen(["node", "agent.mjs"], cwd=tmp_path)
        try:
            out = run([sys.executable, "-W", "error", "algorithm.py"], tmp_path, timeout=60)
        finally:
            runner.terminate()
        assert runner.wait(20) == 0
    finally:
        server.stop()
    assert out.splitlines() == shown
    assert len(shown) == 2


async def test_a_payload_comes_back_from_typescript_as_python_sent_it(typescript: Path, server_address: str) -> None:
    sent = {
        "text": 'é漢字🚀\u2028 "\\\n\x00',
        "integers": [0, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**40],
        "fractions": [0.1, -0.5, 1e-300, 1e22, 123456789.123456789],
        "rest": [None, True, False, {}, [], {"": [[]]}],
        "__proto__": {"__proto__": 2**60},
    }
    experiment = uuid.uuid4().hex
    store = LightningStoreClient(server_address, experiment=experiment)
    try:
        await store.add_resources({})
        rollout = await store.enqueue_rollout(sent)
        run(["node", typescript / "build/test/echo.js", server_address, experiment], typescript, timeout=60)
        spans = await store.query_spans(rollout.rollout_id)
    finally:
        await store.close()
    assert get_object_value(spans[-1]) == sent


def test_it_is_formatted(typescript: Path) -> None:
    run(["npm", "run", "--silent", "format:check"], typescript)
