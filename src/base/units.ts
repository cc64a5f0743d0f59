/** Units of plain numbers, as types say them: what a number counts, where its name does not. */

/** A number of bytes. */
export type Bytes = number

/** A span, or a point on the clock of the program; which one is said where it is used. */
export type Milliseconds = number
