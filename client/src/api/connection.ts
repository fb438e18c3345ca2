import { io, type Socket } from 'socket.io-client'
import { canRetry, type Auth, type Refused, type Requests, type ServerEvents } from './contract'

/** How long a request waits for its ack, in milliseconds. */
const ACK_TIMEOUT = 10_000
const RECONNECT_MIN = 500
const RECONNECT_MAX = 5_000

/** The server refused a request. `retryAfter` is in seconds, present where the same request can succeed later. */
export class Refusal extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfter?: number,
  ) {
    super(message)
    this.name = 'Refusal'
  }

  get retry(): boolean {
    return canRetry(this.code)
  }
}

/** No ack came: the connection is down or the server is slow. Whether the request took effect isn't known. */
export class NoAnswer extends Error {
  constructor() {
    super('The server did not answer.')
    this.name = 'NoAnswer'
  }
}

export interface Lifecycle {
  up(): void
  down(): void
  /** The server will not have these credentials; no further attempt is made. */
  refused(refusal: Refusal): void
}

type ClientEvents = Record<string, (body: object, ack: (answer: unknown) => void) => void>
type Handlers = { [E in keyof ServerEvents]: ServerEvents[E] }

/**
 * One Socket.IO connection with typed events and requests. It reconnects by itself until it is closed or refused, asking
 * `auth` afresh each time, and never buffers: a request without a connection fails with `NoAnswer` at once.
 */
export class Connection {
  private readonly socket: Socket<ServerEvents, ClientEvents>
  private retryTimer: ReturnType<typeof setTimeout> | undefined

  constructor(auth: () => Auth, handlers: Handlers, lifecycle: Lifecycle) {
    this.socket = io({
      auth: (give) => give(auth()),
      autoConnect: false,
      transports: ['websocket', 'polling'],
      tryAllTransports: true,
      reconnectionDelay: RECONNECT_MIN,
      reconnectionDelayMax: RECONNECT_MAX,
    })
    this.socket.on('session', handlers.session)
    this.socket.on('sync', handlers.sync)
    this.socket.on('private message', handlers['private message'])
    this.socket.on('receipt', handlers.receipt)
    this.socket.on('typing', handlers.typing)
    this.socket.on('user connected', handlers['user connected'])
    this.socket.on('user disconnected', handlers['user disconnected'])
    this.socket.on('server', handlers.server)
    this.socket.on('connect', () => lifecycle.up())
    this.socket.on('disconnect', () => {
      lifecycle.down()
      // The library stays away after a DISCONNECT packet; a messenger wants to be back.
      if (!this.socket.active) this.reconnectIn(RECONNECT_MIN)
    })
    this.socket.on('connect_error', (error) => {
      // `active`: the transport failed and the library tries again by itself. Otherwise the server said no.
      if (this.socket.active) return
      const refusal = refusalOf(error)
      if (refusal.retry) this.reconnectIn((refusal.retryAfter ?? RECONNECT_MAX / 1_000) * 1_000)
      else lifecycle.refused(refusal)
    })
  }

  open(): void {
    this.socket.connect()
    addEventListener('online', this.hurry)
  }

  close(): void {
    removeEventListener('online', this.hurry)
    clearTimeout(this.retryTimer)
    this.socket.removeAllListeners()
    this.socket.disconnect()
  }

  /**
   * Comes back at a random moment within so many milliseconds, and the usual pause, when the connection is lost: it may be the
   * server that went, and then everybody's is.
   */
  returnWithin(time: number): void {
    const pause = RECONNECT_MIN + Math.random() * time
    this.socket.io.reconnectionDelay(pause)
    this.socket.io.reconnectionDelayMax(Math.max(pause, RECONNECT_MAX))
  }

  /** Drops the connection and makes a new one a little later, which syncs again. */
  restart(): void {
    this.socket.disconnect()
    this.reconnectIn(RECONNECT_MIN)
  }

  /** Resolves with a successful ack; rejects with `Refusal` or `NoAnswer`, nothing else. */
  async request<E extends keyof Requests>(
    event: E,
    body: Requests[E][0],
    patience = ACK_TIMEOUT,
  ): Promise<Requests[E][1]> {
    if (!this.socket.connected) throw new NoAnswer()
    let answer: unknown
    try {
      answer = await this.socket.timeout(patience).emitWithAck(event, body)
    } catch {
      throw new NoAnswer()
    }
    if (isRefused(answer)) throw new Refusal(answer.error, answer.message, answer.retryAfter)
    return answer as Requests[E][1]
  }

  private reconnectIn(delay: number): void {
    clearTimeout(this.retryTimer)
    this.retryTimer = setTimeout(() => this.socket.connect(), delay)
  }

  /** The network is back: leave the waiting between two attempts at once. */
  private readonly hurry = (): void => {
    if (this.socket.connected) return
    this.socket.disconnect().connect()
  }
}

function isRefused(answer: unknown): answer is Refused {
  return typeof answer === 'object' && answer !== null && 'error' in answer
}

function refusalOf(error: Error & { data?: { code?: string; message?: string; retryAfter?: number } }): Refusal {
  const { code, message, retryAfter } = error.data ?? {}
  return new Refusal(code ?? error.message, message ?? error.message, retryAfter)
}
