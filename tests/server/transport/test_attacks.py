"""What hostile peers send to the transports. Each test fails without the defence that it is named for."""

from __future__ import annotations

import asyncio
import json

import pytest

from duologue.server.transport import encode_event, encode_frame
from duologue.wire import Limits
from tests.server.transport.harness import HOST, OPEN, PATIENCE, Serve, polling, until

pytestmark = pytest.mark.asyncio


class TestFrames:
    @pytest.mark.parametrize("first", [0xC1, 0xA1, 0x91, 0xF1])
    async def test_reserved_bits(self, serve: Serve, first: int) -> None:
        async with serve() as running:
            peer = await running.connected()
            peer.send(b'42["echo"]', first=first)
            assert await peer.close_code() == 1002
            assert running.app.events == []
            assert running.server.counters.violations == 1

    async def test_text_that_is_not_utf8(self, serve: Serve) -> None:
        async with serve() as running:
            peer = await running.connected()
            peer.send(b'42["\xff"]')
            assert await peer.close_code() == 1007

    async def test_fragments_make_one_message_and_control_frames_may_come_between(self, serve: Serve) -> None:
        async with serve() as running:
            peer = await running.connected()
            for index, byte in enumerate(b'42["echo",1]'):
                peer.send(bytes([byte]), first=0x80 if index == 11 else 0x00 if index else 0x01)
                if index == 5:
                    peer.send(b"p", opcode=9)
            assert await peer.frame() == (10, b"p")
            assert await peer.frame() == (1, b'42["echo",1]')

    @pytest.mark.parametrize("frames", [[(0x80, b"x")], [(0x01, b"4"), (0x81, b"4")]])
    async def test_fragments_out_of_order(self, serve: Serve, frames: list[tuple[int, bytes]]) -> None:
        async with serve() as running:
            peer = await running.connected()
            for first, content in frames:
                peer.send(content, first=first)
            assert await peer.close_code() == 1002

    async def test_endless_continuation(self, serve: Serve) -> None:
        async with serve(Limits(max_payload=10_000)) as running:
            peer = await running.connected()
            peer.send(b"4", first=0x01)
            for _ in range(20):
                peer.send(b"x" * 1_000, first=0x00)
            assert await peer.close_code() == 1002

    async def test_empty_fragments_without_end(self, serve: Serve) -> None:
        async with serve(Limits(fragments=100)) as running:
            peer = await running.connected()
            peer.send(b"4", first=0x01)
            for _ in range(101):
                peer.send(b"", first=0x00)
            assert await peer.close_code() == 1002

    async def test_a_frame_over_the_limit(self, serve: Serve) -> None:
        async with serve(Limits(max_payload=1_000)) as running:
            peer = await running.connected()
            peer.send(b"4" * 1_001)
            assert await peer.close_code() == 1009

    async def test_unasked_pongs_prolong_nothing(self, serve: Serve) -> None:
        async with serve(ping_interval=0.2, ping_timeout=0.2, connect_timeout=5) as running:
            peer = await running.connected()
            for _ in range(1_000):
                peer.send(b"3")
            assert await peer.close_code() == 1000
            assert running.server.counters.ping_timeouts == 1

    async def test_a_malformed_packet_ends_one_connection_only(self, serve: Serve) -> None:
        async with serve() as running:
            bystander, peer = await running.connected(), await running.connected()
            peer.send(b'42["a",' + b"[" * 100_000)
            assert await peer.close_code() == 1002
            bystander.send(b'42["echo",1]')
            assert await bystander.frame() == (1, b'42["echo",1]')
            assert running.app.ends == ["protocol error: JSON is nested too deep"]

    async def test_an_application_that_fails(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        async with serve() as running:
            peer = await running.connected()
            peer.send(b'42["boom"]')
            assert await peer.close_code() == 1011
            assert running.app.ends == ["internal error"]
            assert "ZeroDivisionError" in caplog.text


class TestHandshakes:
    async def test_firefox(self, serve: Serve) -> None:
        async with serve() as running:
            await running.websocket(Connection="keep-alive, Upgrade")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://127.0.0.1.evil.example"}, 403),
            ({"Origin": "https://chat.example.evil.example"}, 403),
            ({"Host": "a b"}, 403),
            ({"Host": ""}, 403),
            ({"Sec_WebSocket_Key": "short"}, 400),
            ({"Sec_WebSocket_Key": ""}, 400),
            ({"Sec_WebSocket_Version": "12"}, 400),
            ({"Content_Length": "5"}, 400),
        ],
    )
    async def test_refused(self, serve: Serve, headers: dict[str, str], status: int) -> None:
        async with serve(allowed_origins=("https://chat.example",)) as running:
            peer = await running.open()
            assert (await peer.shake_hands(**headers)).startswith(f"HTTP/1.1 {status}")

    async def test_allowed_origins(self, serve: Serve) -> None:
        async with serve(allowed_origins=("https://chat.example",)) as running:
            await running.websocket(Origin="https://chat.example")
            await running.websocket(Origin=f"http://127.0.0.1:{running.port}")

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            (b"EIO=4&transport=__proto__", 0),
            (b"EIO=4&transport=constructor", 0),
            (b"EIO=4", 0),
            (b"EIO=3&transport=polling", 5),
            (b"transport=polling", 5),
            (b"EIO=4&transport=polling&sid=" + b"x" * 10_000, 3),
            (b"EIO=4&transport=polling&sid=../../etc", 1),
            (b"EIO=4&transport=polling&sid=", 1),
            (b"EIO=4&transport=polling&j=0", 3),
            (b"EIO=4&EIO=3&transport=polling", 3),
            (b"EIO=4&transport=polling&" + b"a&" * 100, 3),
            (b"EIO=4&transport=websocket", 3),
        ],
    )
    async def test_queries(self, serve: Serve, query: bytes, code: int) -> None:
        async with serve() as running:
            status, body = await running.request(b"GET /socket.io/?" + query + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (status, json.loads(body)["code"]) == (400, code)

    async def test_admission_and_capacity(self, serve: Serve) -> None:
        async with serve(admit=lambda address: 7.0 if address == "127.0.0.1" else None) as running:
            assert (await running.request(OPEN))[0] == 429
            answer = await (await running.open()).shake_hands()
            assert answer.startswith("HTTP/1.1 429")
            assert "retry-after: 7" in answer
        async with serve(max_connections=1) as running:
            await running.websocket()
            assert (await running.request(OPEN))[0] == 503

    async def test_sockets_that_send_nothing_or_slowly(self, serve: Serve) -> None:
        async with serve(header_timeout=0.2, ping_timeout=0.4) as running:
            silent, slow = await running.open(), await running.open()
            slow.writer.write(b"GET / HTTP/1.1\r\nHost:")
            assert await silent.end() == b""
            assert await slow.end() == b""

    async def test_a_session_without_connect(self, serve: Serve) -> None:
        async with serve(connect_timeout=0.2) as running:
            peer = await running.websocket()
            assert await peer.close_code() == 1000
            assert running.server.counters.connections == 0


class TestHttp:
    @pytest.mark.parametrize(
        "attack",
        [
            b"X: " + b"x" * 200_000,
            b"".join(b"X-%d: y\r\n" % number for number in range(20_000)),
            b"Transfer-Encoding: chunked\r\n\r\n" + b"0\r\n" + b"".join(b"T-%d: y\r\n" % n for n in range(20_000)),
            b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 200_000,
        ],
        ids=["one header", "headers", "trailers", "chunk extension"],
    )
    async def test_framing_without_end(self, serve: Serve, attack: bytes) -> None:
        async with serve() as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + attack)
            answer = await peer.end()  # a reset may overtake the answer, for the server reads no further
            assert not answer or b" 400 " in answer[:30]

    async def test_a_body_over_the_limit_is_refused_before_it_comes(self, serve: Serve) -> None:
        async with serve() as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 1000001\r\n\r\n")
            assert (await peer.response())[0] == 413

    async def test_a_chunked_body_over_the_limit(self, serve: Serve) -> None:
        async with serve() as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"4" * 65_536 + b"\r\n"
            for _ in range(16):
                peer.writer.write(chunk)
            assert (await peer.response())[0] == 413

    @pytest.mark.parametrize(("known", "status"), [(True, 413), (False, 400)])
    async def test_who_reads_only_after_the_whole_body_gets_the_answer(
        self, serve: Serve, known: bool, status: int
    ) -> None:
        async with serve() as running:
            target = await polling(running) if known else b"/socket.io/?EIO=4&transport=polling&sid=unknown"
            peer = await running.open()
            for _ in range(2):  # on the same connection
                peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\n")
                peer.writer.write(b"4" * 3_000_000)
                async with asyncio.timeout(PATIENCE):
                    await peer.writer.drain()
                assert (await peer.response())[0] == status
                target, status = b"/nothing", 404

    async def test_of_a_body_that_is_refused_not_everything_is_read(self, serve: Serve) -> None:
        async with serve(header_timeout=3600) as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")
            with pytest.raises(ConnectionError):
                for _ in range(1_000):
                    peer.writer.write(b"4" * 1_000_000)
                    async with asyncio.timeout(PATIENCE):
                        await peer.writer.drain()

    async def test_a_body_that_never_ends(self, serve: Serve) -> None:
        async with serve(body_timeout=0.2) as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n4")
            assert (await peer.response())[0] == 408

    async def test_smuggling(self, serve: Serve) -> None:
        async with serve() as running:
            target = await polling(running)
            peer = await running.open()
            lengths = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            peer.writer.write(b"POST " + target + b" HTTP/1.1\r\n" + HOST + lengths + b"0\r\n\r\n")
            assert b" 400 " in (await peer.end())[:30]

    async def test_requests_without_waiting_for_answers(self, serve: Serve) -> None:
        async with serve() as running:
            target = await polling(running)
            peer = await running.open()
            peer.writer.write((b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n") * 100)
            answer = await peer.end()
            assert b" 400 " in answer

    async def test_a_binary_body(self, serve: Serve) -> None:
        async with serve() as running:
            target = await polling(running)
            head = b" HTTP/1.1\r\n" + HOST + b"Content-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n40"
            assert (await running.request(b"POST " + target + head))[0] == 400
            assert running.server.counters.connections == 0

    @pytest.mark.parametrize("count", [17, 100, 10_000])
    async def test_a_payload_of_many_packets_is_processed(self, serve: Serve, count: int) -> None:
        async with serve() as running:
            target = await polling(running)
            body = b"\x1e".join([b"40", *[b'42["a"]'] * (count - 1)])
            head = b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body)
            assert await running.request(b"POST " + target + head + body) == (200, b"ok")
            assert len(running.app.events) == count - 1


class TestSlowReaders:
    async def test_one_that_reads_nothing_is_closed_and_its_memory_released(self, serve: Serve) -> None:
        async with serve(max_unsent=300_000) as running:
            await running.connected()
            (socket,) = running.app.sockets
            frame = encode_frame(encode_event("m", b'"' + b"x" * 50_000 + b'"'))

            def push() -> bool:
                socket.send(frame)
                return not socket.connected

            await until(push)
            assert running.app.ends == ["slow reader"]
            assert running.server.counters.slow_readers_closed == 1
            assert running.server.counters.connections == 0

    async def test_a_polling_session_that_never_polls(self, serve: Serve) -> None:
        async with serve(max_unsent=300_000) as running:
            target = await polling(running)
            head = b" HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n40"
            await running.request(b"POST " + target + head)
            (socket,) = running.app.sockets
            for _ in range(7):
                socket.send(encode_frame(encode_event("m", b'"' + b"x" * 50_000 + b'"')))
            await until(lambda: not socket.connected)
            assert running.app.ends == ["slow reader"]


async def test_a_drain_closes_without_a_disconnect_packet(serve: Serve) -> None:
    async with serve(close_timeout=0.2) as running:
        websocket = await running.connected()
        target = await polling(running)
        poll = asyncio.create_task(running.request(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"))
        await until(lambda: running.server._engine._sessions[target[-20:].decode()]._poll is not None)
        await running.server.drain()
        assert await websocket.frame() == (8, (1012).to_bytes(2, "big"))
        assert await poll == (200, b"1")
        assert (await running.request(OPEN))[0] == 503
        assert running.server.counters.connections == 0


async def test_a_failed_upgrade_leaves_the_session_to_polling(serve: Serve) -> None:
    async with serve() as running:
        target = await polling(running)
        for nonsense in (b"5", b"2", b'42["a"]', b"", b"2probe2"):
            probe = await running.websocket("&sid=" + target[-20:].decode())
            probe.send(nonsense)
            assert await probe.close_code() == 1002
        reset = await running.websocket("&sid=" + target[-20:].decode())
        reset.send(b"2probe")
        reset.writer.transport.abort()
        head = b" HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n40"
        assert await running.request(b"POST " + target + head) == (200, b"ok")
        status, body = await running.request(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status == 200
        assert body.startswith(b"40{")


@pytest.mark.parametrize("probe_after", [0, 3, 7, 10])
async def test_messages_cross_the_upgrade_once_and_in_order(serve: Serve, probe_after: int) -> None:
    async with serve() as running:
        target = await polling(running)
        head = b" HTTP/1.1\r\n" + HOST
        await running.request(b"POST " + target + head + b"Content-Length: 2\r\n\r\n40")
        await running.request(b"GET " + target + head + b"\r\n")
        (socket,) = running.app.sockets
        poll = asyncio.create_task(running.request(b"GET " + target + head + b"\r\n"))
        expected = [b'42["m",%d]' % number for number in range(10)]
        seen: list[bytes] = []
        for number in range(probe_after):
            socket.send(encode_frame(encode_event("m", b"%d" % number)))
        websocket = await running.websocket("&sid=" + target[-20:].decode())
        websocket.send(b"2probe")
        assert await websocket.frame() == (1, b"3probe")
        for number in range(probe_after, 10):
            socket.send(encode_frame(encode_event("m", b"%d" % number)))
        seen += (await poll)[1].split(b"\x1e")
        websocket.send(b"5")
        while len([packet for packet in seen if packet != b"6"]) < 10:
            seen.append((await websocket.frame())[1])
        assert [packet for packet in seen if packet != b"6"] == expected


async def test_ended_connections_leave_nothing_behind(serve: Serve) -> None:
    async with serve() as running:
        for _ in range(20):
            peer = await running.connected()
            peer.writer.transport.abort()
        await until(lambda: len(running.app.ends) == 20)
        assert running.server.counters.connections == 0
        assert running.server._engine._sessions == {}
        assert len(running.server._engine.wheel) == 0
