import type { Message } from '@/core/conversation'
import type { Changes, Database, StoredHead } from './database'

/**
 * Gathers what changes while a transaction is being written into the next one, so that a burst of messages costs a few
 * transactions. What it holds is bounded by what one socket brings during one transaction.
 */
export class Journal {
  private reset = false
  private heads = new Map<string, StoredHead>()
  private messages = new Map<string, Message[]>()
  private cursor: string | undefined
  private writing = false

  constructor(
    private readonly database: Database,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** Everything held is void; what is added from now on stands. */
  drop(): void {
    this.reset = true
    this.heads.clear()
    this.messages.clear()
    this.cursor = undefined
    this.schedule()
  }

  add(head: StoredHead, messages: readonly Message[]): void {
    this.heads.set(head.peer, head)
    if (messages.length > 0) this.messages.set(head.peer, [...(this.messages.get(head.peer) ?? []), ...messages])
    this.schedule()
  }

  /** Everything up to this cursor has been added. */
  reached(cursor: string): void {
    this.cursor = cursor
    this.schedule()
  }

  private schedule(): void {
    if (this.writing) return
    this.writing = true
    queueMicrotask(() => void this.run())
  }

  private async run(): Promise<void> {
    try {
      while (this.reset || this.heads.size > 0 || this.cursor !== undefined) await this.database.write(this.take())
    } catch (error) {
      this.failed(error)
    } finally {
      this.writing = false
    }
  }

  private take(): Changes {
    const changes = {
      reset: this.reset,
      heads: [...this.heads.values()],
      messages: this.messages,
      cursor: this.cursor,
    }
    this.reset = false
    this.heads = new Map()
    this.messages = new Map()
    this.cursor = undefined
    return changes
  }
}
