/**
 * What becomes of a change that was never synced when the power goes.
 */

/** How much of it is there, 0 to 1: of a change in a folder, of bytes in a file, of the size that these gave it. */
export type Luck = (what: 'name' | 'data' | 'size') => number

export const NO_LUCK: Luck = () => 0

/** Every name is there, and of the files only what was synced: as with delayed allocation. */
export const SHORT_FILES: Luck = (what) => (what === 'name' ? 1 : 0)

/** Every name is there, and the files have their sizes, but zeros for bytes. */
export const ZEROS: Luck = (what) => (what === 'data' ? 0 : 1)

/** The same luck again for the same seed. */
export function luckOf(seed: number): Luck {
  const random = randomOf(seed)
  return () => {
    const uniform = random()
    // Whole changes that are there or are not matter as much as torn ones.
    return uniform < 0.4 ? 0 : uniform > 0.6 ? 1 : (uniform - 0.4) * 5
  }
}

/** The same numbers of [0, 1) again for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
