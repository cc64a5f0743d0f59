/**
 * Worker thread that checks a whole database, page by page, and answers with its faults: a large one takes seconds.
 */
import { DatabaseSync } from 'node:sqlite'
import { parentPort, workerData } from 'node:worker_threads'

const MOST_PROBLEMS = 10

function problems(path: string): string[] {
  try {
    const database = new DatabaseSync(path, { readOnly: true })
    try {
      const rows = database.prepare(`pragma quick_check(${MOST_PROBLEMS})`).all()
      return rows.map((row) => String(row['quick_check'])).filter((text) => text !== 'ok')
    } finally {
      database.close()
    }
  } catch (error) {
    return [error instanceof Error ? error.message : String(error)]
  }
}

parentPort?.postMessage(problems(workerData as string))
