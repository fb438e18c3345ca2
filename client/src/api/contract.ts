/** The wire contract of docs/protocol.md, in its sync form. Times are milliseconds since the Unix epoch, UTC. */

export type UserID = string

export interface WireMessage {
  readonly content: string
  readonly from: UserID
  readonly to: UserID
  readonly id: string
  readonly seq: number
  readonly at: number
}

/** A live event that moves the sync cursor carries it. */
export interface Cursored {
  readonly cursor?: string
}

export interface WirePerson {
  readonly userID: UserID
  readonly username: string
  readonly connected: boolean
  readonly lastSeen?: number | null
}

export interface WireConversation {
  readonly with: WirePerson
  readonly seq: number
  readonly read: number
  readonly received: number
  readonly peerRead: number
  readonly peerReceived: number
  readonly messages: readonly WireMessage[]
}

export interface ServerLimits {
  readonly typingRepeat: number
  readonly typingExpires: number
  readonly maxContent: number
  readonly maxPage: number
  readonly maxWatch: number
  /** Milliseconds within which a client that lost its connection should come back, at a random moment. */
  readonly returnWithin: number
}

export interface SyncPage {
  readonly cursor: string
  readonly reset: boolean
  readonly conversations: readonly WireConversation[]
  readonly next: string | null
  readonly me: { readonly userID: UserID; readonly username: string }
  readonly server: ServerLimits
}

export interface WireReceipt extends Cursored {
  readonly from: UserID
  readonly to: UserID
  readonly received: number
  readonly read: number
}

export interface Refused {
  readonly error: string
  readonly message: string
  readonly retryAfter?: number
}

export interface Positions {
  readonly received: number
  readonly read: number
}

/** Requests: what is sent, and what a successful ack holds. */
export interface Requests {
  'private message': [{ content: string; to: UserID; id: string }, { id: string; seq: number; at: number }]
  sync: [{ since: string | null; next: string }, SyncPage]
  history: [
    { with: UserID; before?: number; after?: number; limit?: number },
    { messages: WireMessage[]; more: boolean },
  ]
  directory: [{ after?: string; limit?: number }, { people: WirePerson[]; next: string | null }]
  watch: [{ users: UserID[] }, { people: WirePerson[] }]
  'sign out': [Record<string, never>, Record<string, never>]
  received: [{ with: UserID; seq: number }, Positions]
  read: [{ with: UserID; seq: number }, Positions]
  typing: [{ to: UserID }, object]
}

export interface ServerEvents {
  session: (session: { sessionID: string; userID: UserID }) => void
  sync: (page: SyncPage) => void
  'private message': (message: WireMessage & Cursored) => void
  receipt: (receipt: WireReceipt) => void
  typing: (typing: { from: UserID }) => void
  'user connected': (person: WirePerson) => void
  'user disconnected': (userID: UserID) => void
  server: (changed: Pick<ServerLimits, 'returnWithin'>) => void
}

/** What a client presents at connect. */
export type Auth =
  | { readonly username: string; readonly sync: { readonly since: null } }
  | { readonly sessionID: string; readonly sync: { readonly since: string | null } }

/** The codes after which the same request can succeed later (docs/protocol.md, Errors). */
const RETRYABLE: ReadonlySet<string> = new Set(['rate limited', 'overloaded', 'storage full', 'unavailable'])

export function canRetry(code: string): boolean {
  return RETRYABLE.has(code)
}
