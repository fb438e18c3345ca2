"""The same server as peers/node/server.js, on python-socketio and uvicorn."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

import socketio
import uvicorn

sessions: dict[str, dict[str, Any]] = {}
messages: list[dict[str, str]] = []
server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


@server.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> None:
    auth = auth or {}
    session_id = auth.get("sessionID", "")
    if session_id not in sessions:
        if not auth.get("username"):
            raise socketio.exceptions.ConnectionRefusedError("invalid username")
        session_id = secrets.token_hex(8)
        sessions[session_id] = {"userID": secrets.token_hex(8), "username": auth["username"], "connected": True}
    session = sessions[session_id]
    session["connected"] = True
    user_id = session["userID"]
    await server.save_session(sid, {"userID": user_id, "sessionID": session_id})
    await server.emit("session", {"sessionID": session_id, "userID": user_id}, to=sid)
    await server.enter_room(sid, user_id)
    exchanged: dict[str, list[dict[str, str]]] = {}
    for message in messages:
        if user_id in (message["from"], message["to"]):
            other = message["to"] if message["from"] == user_id else message["from"]
            exchanged.setdefault(other, []).append(message)
    users = [{**each, "messages": exchanged.get(each["userID"], [])} for each in sessions.values()]
    await server.emit("users", users, to=sid)
    await server.emit("user connected", {**session, "messages": []}, skip_sid=sid)


@server.on("private message")
async def private_message(sid: str, body: dict[str, str]) -> None:
    user_id = (await server.get_session(sid))["userID"]
    message = {"content": body["content"], "from": user_id, "to": body["to"]}
    await server.emit("private message", message, to=[body["to"], user_id], skip_sid=sid)
    messages.append(message)


@server.event
async def disconnect(sid: str) -> None:
    session = await server.get_session(sid)
    user_id = session["userID"]
    if any(other != sid for other, _ in server.manager.get_participants("/", user_id)):
        return
    sessions[session["sessionID"]]["connected"] = False
    await server.emit("user disconnected", user_id, skip_sid=sid)


if __name__ == "__main__":
    port = int(sys.argv[1])
    print(json.dumps({"ready": port}), flush=True)
    uvicorn.run(
        socketio.ASGIApp(server),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        log_level="error",
        access_log=False,
    )
