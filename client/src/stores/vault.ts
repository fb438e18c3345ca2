import { defineStore } from 'pinia'
import { shallowRef } from 'vue'
import { Database, type Changes, type StoredHead } from '@/storage/database'
import { Journal } from '@/storage/journal'
import type { Message } from '@/core/conversation'
import type { OutboxEntry } from '@/core/outbox'

/**
 * What this device keeps. Where the browser allows no storage the client works from memory alone and `broken` says so;
 * nothing here rejects.
 */
export const useVault = defineStore('vault', () => {
  const broken = shallowRef(false)
  let database: Database | null = null
  let journal: Journal | null = null
  let memoryOrder = 0

  async function open(userID: string): Promise<{ heads: StoredHead[]; cursor: string | null; outbox: OutboxEntry[] }> {
    try {
      database = await Database.open(userID)
      journal = new Journal(database, fail)
      broken.value = false
      return await database.load()
    } catch (error) {
      fail(error)
      return { heads: [], cursor: null, outbox: [] }
    }
  }

  function add(head: StoredHead, messages: readonly Message[]): void {
    journal?.add(head, messages)
  }

  function drop(): void {
    journal?.drop()
  }

  function reached(cursor: string): void {
    journal?.reached(cursor)
  }

  async function messages(peer: string, before: number, limit: number): Promise<Message[]> {
    return (await attempt((db) => db.messages(peer, before, limit))) ?? []
  }

  async function enqueue(entry: Omit<OutboxEntry, 'order'>): Promise<OutboxEntry> {
    return (await attempt((db) => db.enqueue(entry))) ?? { ...entry, order: (memoryOrder += 1) }
  }

  async function outbox(): Promise<OutboxEntry[] | undefined> {
    return await attempt((db) => db.outbox())
  }

  async function replaceEntry(entry: OutboxEntry): Promise<void> {
    await attempt((db) => db.replaceEntry(entry))
  }

  async function dropEntry(order: number): Promise<void> {
    await attempt((db) => db.dropEntry(order))
  }

  /** An outbox entry became a message: both change in one transaction. */
  async function deliver(order: number, head: StoredHead, message: Message): Promise<void> {
    const changes: Changes = {
      reset: false,
      heads: [head],
      messages: new Map([[head.peer, [message]]]),
      cursor: undefined,
      delivered: order,
    }
    await attempt((db) => db.write(changes))
  }

  async function close(erase: boolean): Promise<void> {
    const closing = database
    database = null
    journal = null
    if (!closing) return
    if (erase) await closing.delete()
    else closing.close()
  }

  async function attempt<T>(work: (db: Database) => Promise<T>): Promise<T | undefined> {
    if (!database) return undefined
    try {
      return await work(database)
    } catch (error) {
      fail(error)
      return undefined
    }
  }

  function fail(error: unknown): void {
    broken.value = true
    console.warn('Duologue cannot keep data in this browser:', error)
  }

  return { broken, open, add, drop, reached, messages, enqueue, outbox, replaceEntry, dropEntry, deliver, close }
})
