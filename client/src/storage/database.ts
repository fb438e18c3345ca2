import { deleteDB, openDB, type DBSchema, type IDBPDatabase } from 'idb'
import { addMessages, applyHead, emptyConversation, type Conversation, type Message } from '@/core/conversation'
import type { OutboxEntry } from '@/core/outbox'

/** What is kept of a conversation besides its messages, and the name of the other side. */
export type StoredHead = Omit<Conversation, 'messages'> & { readonly username: string }
type StoredMessage = Message & { readonly peer: string }
type NewEntry = Omit<OutboxEntry, 'order'>

interface Schema extends DBSchema {
  heads: { key: string; value: StoredHead }
  messages: { key: [string, number]; value: StoredMessage }
  outbox: { key: number; value: OutboxEntry | NewEntry; indexes: { id: string } }
  meta: { key: 'cursor'; value: string }
}

/** One transaction's worth of news. `reset` drops everything held (but the outbox) before the rest is written. */
export interface Changes {
  readonly reset: boolean
  readonly heads: readonly StoredHead[]
  readonly messages: ReadonlyMap<string, readonly Message[]>
  /** The cursor up to which everything is in these or earlier changes; undefined while that is not so. */
  readonly cursor: string | undefined
  /** The outbox entry, by its order, that the messages replace. */
  readonly delivered?: number
}

/**
 * What this device keeps of one user: held conversations, the sync cursor, the outbox. Several tabs share it. Messages
 * never change and heads only grow, so tabs may write the same news in any order; a cursor is written in one transaction
 * with what it covers.
 */
export class Database {
  private constructor(
    private readonly db: IDBPDatabase<Schema>,
    private readonly name: string,
  ) {}

  static async open(userID: string): Promise<Database> {
    const name = `duologue-${userID}`
    const db = await openDB<Schema>(name, 1, {
      upgrade(fresh) {
        fresh.createObjectStore('heads', { keyPath: 'peer' })
        fresh.createObjectStore('messages', { keyPath: ['peer', 'seq'] })
        fresh.createObjectStore('outbox', { keyPath: 'order', autoIncrement: true }).createIndex('id', 'id', { unique: true })
        fresh.createObjectStore('meta')
      },
      // Another tab deletes the database (leaving) or brings a newer schema: never stand in its way.
      blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    })
    return new Database(db, name)
  }

  async load(): Promise<{ heads: StoredHead[]; cursor: string | null; outbox: OutboxEntry[] }> {
    const tx = this.db.transaction(['heads', 'meta', 'outbox'])
    const [heads, cursor, outbox] = await Promise.all([
      tx.objectStore('heads').getAll(),
      tx.objectStore('meta').get('cursor'),
      tx.objectStore('outbox').getAll(),
    ])
    return { heads, cursor: cursor ?? null, outbox: outbox as OutboxEntry[] }
  }

  /** The latest held messages of a conversation with seqs below `before`, at most `limit`, ascending. */
  async messages(peer: string, before: number, limit: number): Promise<Message[]> {
    const found: Message[] = []
    const range = IDBKeyRange.bound([peer, 0], [peer, before], false, true)
    let cursor = await this.db.transaction('messages').store.openCursor(range, 'prev')
    while (cursor && found.length < limit) {
      const { peer: _, ...message } = cursor.value
      found.push(message)
      cursor = await cursor.continue()
    }
    return found.reverse()
  }

  async write(changes: Changes): Promise<void> {
    const tx = this.db.transaction(['heads', 'messages', 'outbox', 'meta'], 'readwrite', { durability: 'strict' })
    const work: Promise<unknown>[] = []
    if (changes.reset) {
      work.push(tx.objectStore('heads').clear(), tx.objectStore('messages').clear(), tx.objectStore('meta').clear())
    }
    for (const head of changes.heads) work.push(growHead(tx.objectStore('heads'), head))
    for (const [peer, messages] of changes.messages) {
      for (const message of messages) work.push(tx.objectStore('messages').put({ ...message, peer }))
    }
    if (changes.cursor !== undefined) work.push(tx.objectStore('meta').put(changes.cursor, 'cursor'))
    if (changes.delivered !== undefined) work.push(tx.objectStore('outbox').delete(changes.delivered))
    await Promise.all([...work, tx.done])
  }

  async outbox(): Promise<OutboxEntry[]> {
    return (await this.db.getAll('outbox')) as OutboxEntry[]
  }

  /** Stores a new entry at the end of the queue and returns it with its place. On disk when this resolves. */
  async enqueue(entry: NewEntry): Promise<OutboxEntry> {
    const tx = this.db.transaction('outbox', 'readwrite', { durability: 'strict' })
    const [order] = await Promise.all([tx.store.add(entry), tx.done])
    return { ...entry, order }
  }

  async replaceEntry(entry: OutboxEntry): Promise<void> {
    await this.db.put('outbox', entry)
  }

  async dropEntry(order: number): Promise<void> {
    await this.db.delete('outbox', order)
  }

  close(): void {
    this.db.close()
  }

  async delete(): Promise<void> {
    this.db.close()
    await deleteDB(this.name)
  }
}

interface HeadStore {
  get(peer: string): Promise<StoredHead | undefined>
  put(head: StoredHead): Promise<string>
}

/** A tab that lags behind must not take back what another one wrote. */
async function growHead(store: HeadStore, head: StoredHead): Promise<void> {
  const held = await store.get(head.peer)
  await store.put(held ? { ...grown(held, head), username: head.username } : head)
}

function grown(held: StoredHead, news: StoredHead): Omit<Conversation, 'messages'> {
  const before = applyHead({ ...emptyConversation(held.peer, held.self), last: held.last }, held)
  const { messages: _, ...after } = applyHead(addMessages(before, news.last ? [news.last] : []), news)
  return after
}
