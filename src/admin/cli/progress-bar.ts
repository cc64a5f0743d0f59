/**
 * How far something has come, on one line of the terminal that is written over and over.
 *
 * Nothing at all where nobody watches. Dispose to take the line away.
 */
import type { ProcessIo } from './process-io.ts'

const WIDTH = 24

const AGAIN_MS = 100

export class ProgressBar implements Disposable {
  readonly #edge: Pick<ProcessIo, 'stderrIsTty' | 'writeStderr'>
  #shownAt: number | undefined

  constructor(edge: Pick<ProcessIo, 'stderrIsTty' | 'writeStderr'>) {
    this.#edge = edge
  }

  /** @param share from 0 to 1; anything else counts as the end that is nearer */
  show(share: number, text: string): void {
    if (!this.#edge.stderrIsTty) return
    const now = performance.now()
    if (this.#shownAt !== undefined && now - this.#shownAt < AGAIN_MS) return
    this.#shownAt = now
    const done = Number.isNaN(share) ? 1 : Math.min(1, Math.max(0, share))
    const full = Math.round(done * WIDTH)
    const bar = '#'.repeat(full) + '.'.repeat(WIDTH - full)
    this.#edge.writeStderr(`\r\x1b[2K[${bar}] ${Math.floor(done * 100)}%  ${text}`)
  }

  /** Room for something else to be said. */
  clear(): void {
    if (this.#shownAt !== undefined) this.#edge.writeStderr('\r\x1b[2K')
    this.#shownAt = undefined
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}
