/**
 * Turns on the event loop for large documents: hashing and parsing one takes tens of milliseconds, and however many have
 * arrived at once, whatever else has to be answered is looked at between two of them.
 */

/** Less is done in a millisecond or two. */
const LARGE = 256 * 1024

let last = Promise.resolve()

/**
 * To be awaited before a document of so many bytes is hashed or parsed. What follows at once, without another wait,
 * belongs to the turn.
 */
export async function turnFor(bytes: number): Promise<void> {
  if (bytes < LARGE) return
  const turn = last.then(
    () =>
      new Promise<void>((resolve) => {
        setImmediate(resolve)
      }),
  )
  last = turn
  await turn
}
