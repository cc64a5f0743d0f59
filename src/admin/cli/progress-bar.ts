/**
 * Progress bar, on one line of the terminal that is overwritten.
 *
 * It writes nothing where standard error is no terminal. Dispose to erase the line.
 */
import { sizeText } from '../../base/format.ts'
import type { Bytes } from '../../base/units.ts'
import type { ProcessIo } from './process-io.ts'

const WIDTH = 24

const REDRAW_MS = 100

export class ProgressBar implements Disposable {
  readonly #io: Pick<ProcessIo, 'stderrIsTty' | 'writeStderr'>
  #shownAt: number | undefined

  constructor(io: Pick<ProcessIo, 'stderrIsTty' | 'writeStderr'>) {
    this.#io = io
  }

  /** @param share from 0 to 1; other values are clamped */
  show(share: number, text: string): void {
    if (!this.#io.stderrIsTty) return
    const now = performance.now()
    if (this.#shownAt !== undefined && now - this.#shownAt < REDRAW_MS) return
    this.#shownAt = now
    const done = Number.isNaN(share) ? 1 : Math.min(1, Math.max(0, share))
    const full = Math.round(done * WIDTH)
    const bar = '#'.repeat(full) + '.'.repeat(WIDTH - full)
    this.#io.writeStderr(`\r\x1b[2K[${bar}] ${Math.floor(done * 100)}%  ${text}`)
  }

  /** @param count a text before the bytes, such as `1 of 3 files, ` */
  showBytes({ bytes, totalBytes }: { readonly bytes: Bytes; readonly totalBytes: Bytes }, count = ''): void {
    this.show(bytes / totalBytes, `${count}${sizeText(bytes)} of ${sizeText(totalBytes)}`)
  }

  /** Erases the line, so that another can be printed. */
  clear(): void {
    if (this.#shownAt !== undefined) this.#io.writeStderr('\r\x1b[2K')
    this.#shownAt = undefined
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}
