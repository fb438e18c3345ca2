// The stock socket.io-client as a process that takes orders: one JSON object a line on standard input, what happens as one
// JSON object a line on standard output. Binary arguments travel as {"$bytes": base64}.
//
//   in   {"id": 1, "do": "emit", "event": "message", "args": [1], "ack": true}
//   out  {"answer": 1, "value": [1]}    {"answer": 1, "error": "..."}    {"event": "message-back", "args": [1]}
//
// What the client itself tells is an event whose name begins with "@", such as "@connect".

import { createInterface } from "node:readline";
import { io } from "socket.io-client";
import { GuideClient } from "./guide.js";

let socket;
let guide;

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

function pack(value) {
  if (Buffer.isBuffer(value) || value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return { $bytes: Buffer.from(value).toString("base64") };
  }
  if (Array.isArray(value)) return value.map(pack);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, pack(inner)]));
  }
  return value;
}

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value !== null && typeof value === "object") {
    if (typeof value.$bytes === "string") return Buffer.from(value.$bytes, "base64");
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, unpack(inner)]));
  }
  return value;
}

const orders = {
  connect({ url, options }) {
    socket = io(url, { ...options, autoConnect: false });
    socket.onAny((event, ...args) => say({ event, args: pack(args) }));
    socket.on("connect", () => say({ event: "@connect", args: [socket.id, socket.io.engine.transport.name] }));
    socket.on("disconnect", (reason) => say({ event: "@disconnect", args: [reason] }));
    socket.on("connect_error", (error) => say({ event: "@connect_error", args: [error.message, error.data ?? null] }));
    socket.io.on("reconnect", (attempt) => say({ event: "@reconnect", args: [attempt] }));
    socket.io.on("open", () => {
      socket.io.engine.on("upgrade", (transport) => say({ event: "@upgrade", args: [transport.name] }));
    });
    socket.connect();
  },

  // The guide's own client, with what its page would show.
  guide({ url, options, storage }) {
    orders.connect({ url, options });
    guide = new GuideClient(socket, storage, (name) => say({ event: name, args: [] }));
    guide.start();
  },

  state() {
    return guide.state();
  },

  say({ to, content }) {
    guide.send(to, content);
  },

  async emit({ event, args, ack, timeout }) {
    if (!ack) {
      socket.emit(event, ...unpack(args));
      return null;
    }
    const sender = timeout ? socket.timeout(timeout) : socket;
    return pack(await sender.emitWithAck(event, ...unpack(args)));
  },

  transport() {
    return socket.io.engine.transport.name;
  },

  sid() {
    return socket.io.engine.id;
  },

  auth({ auth }) {
    socket.auth = auth;
  },

  // The network goes away under the client, which then reconnects by itself.
  drop() {
    socket.io.engine.close();
  },

  disconnect() {
    socket.disconnect();
  },

  reconnect() {
    socket.connect();
  },
};

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const order = JSON.parse(line);
    try {
      say({ answer: order.id, value: (await orders[order.do](order)) ?? null });
    } catch (error) {
      say({ answer: order.id, error: error.message });
    }
  })
  .on("close", () => process.exit(0));
