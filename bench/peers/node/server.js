// Part III of Socket.IO's guide "Private messaging", written anew: sessions, presence and messages in memory.
// What it does for a message is what the guide's server does: forward to the recipient's and the sender's rooms, keep it.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";

const sessions = new Map();
const messages = [];
// For the memory of idle connections: that everybody is announced to everybody would take many minutes at 15,000.
const quiet = process.argv.includes("quiet");
const newId = () => randomBytes(8).toString("hex");

const http = createServer();
const io = new Server(http, { cors: { origin: "*" } });

io.use((socket, next) => {
  const { sessionID, username } = socket.handshake.auth;
  const known = sessionID && sessions.get(sessionID);
  if (!known && !username) return next(new Error("invalid username"));
  socket.sessionID = known ? sessionID : newId();
  socket.userID = known ? known.userID : newId();
  socket.username = known ? known.username : username;
  next();
});

io.on("connection", async (socket) => {
  const { sessionID, userID, username } = socket;
  sessions.set(sessionID, { userID, username, connected: true });
  socket.emit("session", { sessionID, userID });
  socket.join(userID);

  const exchanged = new Map();
  for (const message of messages) {
    if (message.from !== userID && message.to !== userID) continue;
    const other = message.from === userID ? message.to : message.from;
    if (!exchanged.has(other)) exchanged.set(other, []);
    exchanged.get(other).push(message);
  }
  const users = [];
  for (const session of quiet ? [] : sessions.values()) {
    users.push({
      userID: session.userID,
      username: session.username,
      connected: session.connected,
      messages: exchanged.get(session.userID) ?? [],
    });
  }
  socket.emit("users", quiet ? [] : users);
  if (!quiet) socket.broadcast.emit("user connected", { userID, username, connected: true, messages: [] });

  socket.on("private message", ({ content, to }) => {
    const message = { content, from: userID, to };
    socket.to(to).to(userID).emit("private message", message);
    messages.push(message);
  });

  socket.on("disconnect", async () => {
    const left = await io.in(userID).fetchSockets();
    if (left.length > 0) return;
    if (!quiet) socket.broadcast.emit("user disconnected", userID);
    sessions.set(sessionID, { userID, username, connected: false });
  });
});

if (process.argv[2] === "facts") {
  // By now ws has loaded what it can; bufferutil falls back to JavaScript in silence where it finds no native addon.
  const native = process.report.getReport().sharedObjects.some((path) => /bufferutil.*\.node$/.test(path));
  console.log(JSON.stringify({ node: process.version, "bufferutil is native": native }));
} else {
  http.listen(Number(process.argv[2]), "127.0.0.1");
}
