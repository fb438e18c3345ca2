// The behaviour of the client of Socket.IO's "Private messaging" guide (Parts I to III), without its page: what it keeps,
// what it drops, and what its page would show.

export class GuideClient {
  constructor(socket, storage, tell) {
    this.socket = socket;
    this.storage = storage ?? {}; // stands for the browser's localStorage
    this.tell = tell;
    this.users = [];
  }

  start() {
    const { socket } = this;

    socket.on("session", ({ sessionID, userID }) => {
      socket.auth = { sessionID };
      this.storage.sessionID = sessionID;
      socket.userID = userID;
    });

    socket.on("connect", () => this.#showSelf(true));
    socket.on("disconnect", () => this.#showSelf(false));

    socket.on("users", (users) => {
      for (const user of users) {
        for (const message of user.messages) {
          message.fromSelf = message.from === socket.userID;
        }
        const known = this.#find(user.userID);
        if (known) {
          known.connected = user.connected;
          known.messages = user.messages;
          continue;
        }
        user.self = user.userID === socket.userID;
        user.hasNewMessages = false;
        this.users.push(user);
      }
      this.tell("@shown");
    });

    socket.on("user connected", (user) => {
      const known = this.#find(user.userID);
      if (known) {
        known.connected = true;
      } else {
        user.self = false;
        user.hasNewMessages = false;
        this.users.push(user);
      }
      this.tell("@shown");
    });

    socket.on("user disconnected", (id) => {
      const known = this.#find(id);
      if (known) known.connected = false;
      this.tell("@shown");
    });

    socket.on("private message", ({ content, from, to }) => {
      const fromSelf = socket.userID === from;
      // A message of somebody who isn't listed is dropped: the server has to announce people first.
      const user = this.#find(fromSelf ? to : from);
      if (user) {
        user.messages.push({ content, fromSelf });
        user.hasNewMessages = true;
      }
      this.tell("@shown");
    });
  }

  send(to, content) {
    this.socket.emit("private message", { content, to });
    this.#find(to).messages.push({ content, fromSelf: true });
  }

  state() {
    return { userID: this.socket.userID, sessionID: this.storage.sessionID, users: this.users };
  }

  #find(id) {
    return this.users.find((user) => user.userID === id);
  }

  #showSelf(connected) {
    for (const user of this.users) {
      if (user.self) user.connected = connected;
    }
  }
}
