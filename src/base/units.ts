/** Units of plain numbers, as names of types: what a number counts, where its own name does not say so. */

export type Bytes = number

/** A span, or a point on the clock of the program; which one is said where it is used. */
export type Milliseconds = number
