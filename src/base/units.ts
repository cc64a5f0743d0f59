/** Units of plain numbers, as type names: what a number counts, where its own name does not say so. */

export type Bytes = number

/** A span, or a point on a clock of the process; the place of use says which. */
export type Milliseconds = number
