"""With keys required, an agent reaches its own attempt and no other."""

from __future__ import annotations

import httpx
from gateways import ASKED, serving
from openai_server import OpenAIServer

from agentlightning import AttemptedRollout, InMemoryLightningStore, ProxyLLM

REFUSED, SERVED = 401, 200


async def test_a_key_opens_its_own_attempt_only(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    other = await memory.start_rollout({})
    async with serving(memory, endpoint.base_url, require_keys=True) as proxy, httpx.AsyncClient() as http:
        published = proxy.as_resource()
        assert isinstance(published, ProxyLLM)
        own, foreign = published.with_attempted_rollout(rollout), published.with_attempted_rollout(other)
        assert own == proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id)
        retried = published.get_base_url(rollout.rollout_id, "at-other")

        async def status(url: str, headers: dict[str, str]) -> int:
            return (await http.post(f"{url}/chat/completions", json=ASKED, headers=headers)).status_code

        for headers in ({"authorization": f"Bearer {own.api_key}"}, {"x-api-key": str(own.api_key)}):
            assert await status(own.endpoint, headers) == SERVED
            for url in (foreign.endpoint, retried, proxy.url):
                assert await status(url, headers) == REFUSED
        run = {"authorization": f"Bearer {published.api_key}"}
        assert [await status(url, run) for url in (own.endpoint, foreign.endpoint, proxy.url)] == [SERVED] * 3
        assert await status(own.endpoint, {}) == REFUSED
        assert await status(own.endpoint, {"authorization": "Bearer unknown"}) == REFUSED
        assert (await http.get(f"{proxy.url}/models")).status_code == REFUSED
    assert [span.status.status_code for span in await memory.query_spans(rollout.rollout_id)] == ["OK"] * 3
    # The backend never sees them.
    assert all("authorization" not in call.headers and "x-api-key" not in call.headers for call in endpoint.calls)


async def test_keys_of_one_gateway_open_no_other_unless_they_share_the_run_key(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    settings = {"require_keys": True, "run_key": "agl-run-shared"}
    async with (
        serving(memory, endpoint.base_url, **settings) as one,
        serving(memory, endpoint.base_url, **settings) as same,
        serving(memory, endpoint.base_url, require_keys=True) as other,
        httpx.AsyncClient() as http,
    ):
        ids = rollout.rollout_id, rollout.attempt.attempt_id
        headers = {"authorization": f"Bearer {one.as_resource(*ids).api_key}"}
        statuses = [
            (
                await http.post(f"{proxy.as_resource(*ids).endpoint}/chat/completions", json=ASKED, headers=headers)
            ).status_code
            for proxy in (one, same, other)
        ]
    assert statuses == [SERVED, SERVED, REFUSED]


async def test_without_required_keys_any_key_will_do(
    memory: InMemoryLightningStore, rollout: AttemptedRollout, endpoint: OpenAIServer
) -> None:
    async with serving(memory, endpoint.base_url) as proxy, httpx.AsyncClient() as http:
        url = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id).endpoint
        got = await http.post(f"{url}/chat/completions", json=ASKED, headers={"authorization": "Bearer dummy"})
    assert got.status_code == SERVED
