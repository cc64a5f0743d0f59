/**
 * Worker pool over an asynchronous iteration: the same work for many items, a few at once.
 *
 * p-map is unfit: it rejects at once and leaves running work unwatched, and it yields nothing while results are late.
 */

const TICK_MS = 200

/**
 * Yields results as they come; undefined when there was none for a while.
 *
 * A reader that stops early, and a failure, wait for the running work, which must end soon by itself.
 */
export async function* pooled<T, R>(
  items: AsyncIterable<T>,
  lanes: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R | undefined, void, undefined> {
  const running = new Set<Promise<void>>()
  let results: R[] = []
  const failures: unknown[] = []
  const start = (item: T): void => {
    const lane = work(item)
      .then(
        (result) => void results.push(result),
        (error: unknown) => void failures.push(error),
      )
      .finally(() => running.delete(lane))
    running.add(lane)
  }
  const someEnded = async (): Promise<void> => {
    let timer: NodeJS.Timeout | undefined
    const tick = new Promise<void>((resolve) => (timer = setTimeout(resolve, TICK_MS)))
    await Promise.race([tick, ...running])
    clearTimeout(timer)
  }
  const take = (): R[] => {
    if (failures.length > 0) throw failures[0]
    const taken = results
    results = []
    return taken
  }
  try {
    for await (const item of items) {
      start(item)
      while (running.size >= lanes) {
        await someEnded()
        yield* take()
        yield undefined
      }
    }
    while (running.size > 0) {
      await someEnded()
      yield* take()
      yield undefined
    }
    yield* take()
  } finally {
    await Promise.all(running)
  }
}
