// Part IV of Socket.IO's guide "Private messaging", written anew: several servers, sessions and messages in Redis, and the
// Redis adapter between the servers. node cluster.js PORT REDIS_PORT
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const SESSION_SECONDS = 24 * 60 * 60;
const MESSAGE_SECONDS = 24 * 60 * 60;
const SCAN_COUNT = 100;
const newId = () => randomBytes(8).toString("hex");

const redis = new Redis(Number(process.argv[3]), "127.0.0.1");

const asSession = ([userID, username, connected]) => (userID ? { userID, username, connected: connected === "true" } : undefined);
const FIELDS = ["userID", "username", "connected"];

const findSession = async (id) => asSession(await redis.hmget(`session:${id}`, ...FIELDS));

const saveSession = (id, { userID, username, connected }) =>
  redis
    .multi()
    .hset(`session:${id}`, "userID", userID, "username", username, "connected", String(connected))
    .expire(`session:${id}`, SESSION_SECONDS)
    .exec();

async function allSessions() {
  const keys = new Set();
  let cursor = "0";
  do {
    const [next, found] = await redis.scan(cursor, "MATCH", "session:*", "COUNT", SCAN_COUNT);
    cursor = next;
    for (const key of found) keys.add(key);
  } while (cursor !== "0");
  const pipeline = redis.pipeline();
  for (const key of keys) pipeline.hmget(key, ...FIELDS);
  const rows = await pipeline.exec();
  return rows.map(([error, row]) => (error ? undefined : asSession(row))).filter(Boolean);
}

function saveMessage(message) {
  const value = JSON.stringify(message);
  return redis
    .multi()
    .rpush(`messages:${message.from}`, value)
    .rpush(`messages:${message.to}`, value)
    .expire(`messages:${message.from}`, MESSAGE_SECONDS)
    .expire(`messages:${message.to}`, MESSAGE_SECONDS)
    .exec();
}

const messagesOf = async (userID) => (await redis.lrange(`messages:${userID}`, 0, -1)).map((value) => JSON.parse(value));

const http = createServer();
const io = new Server(http, { cors: { origin: "*" }, adapter: createAdapter(redis, redis.duplicate()) });

io.use(async (socket, next) => {
  const { sessionID, username } = socket.handshake.auth;
  const known = sessionID && (await findSession(sessionID));
  if (!known && !username) return next(new Error("invalid username"));
  socket.sessionID = known ? sessionID : newId();
  socket.userID = known ? known.userID : newId();
  socket.username = known ? known.username : username;
  next();
});

io.on("connection", async (socket) => {
  const { sessionID, userID, username } = socket;
  await saveSession(sessionID, { userID, username, connected: true });
  socket.emit("session", { sessionID, userID });
  socket.join(userID);

  const [messages, sessions] = await Promise.all([messagesOf(userID), allSessions()]);
  const exchanged = new Map();
  for (const message of messages) {
    const other = message.from === userID ? message.to : message.from;
    if (!exchanged.has(other)) exchanged.set(other, []);
    exchanged.get(other).push(message);
  }
  const users = sessions.map((session) => ({ ...session, messages: exchanged.get(session.userID) ?? [] }));
  socket.emit("users", users);
  socket.broadcast.emit("user connected", { userID, username, connected: true, messages: [] });

  socket.on("private message", ({ content, to }) => {
    const message = { content, from: userID, to };
    socket.to(to).to(userID).emit("private message", message);
    saveMessage(message);
  });

  socket.on("disconnect", async () => {
    const left = await io.in(userID).fetchSockets();
    if (left.length > 0) return;
    socket.broadcast.emit("user disconnected", userID);
    await saveSession(sessionID, { userID, username, connected: false });
  });
});

http.listen(Number(process.argv[2]), "127.0.0.1");
