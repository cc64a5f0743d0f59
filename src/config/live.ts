/**
 * Present configuration, which a reload replaces while the server runs.
 *
 * A part that copies a value keeps an old one. Parts that live as long as the server take `() => …` over it, or an
 * object whose getters read it, and read it each time.
 */
import type { Config } from './schema.ts'

export class LiveConfig {
  #config: Config

  constructor(config: Config) {
    this.#config = config
  }

  get config(): Config {
    return this.#config
  }

  replace(config: Config): void {
    this.#config = config
  }
}
