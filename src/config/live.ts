/**
 * The configuration as it is at this moment: it can be read again while the server runs.
 *
 * Whoever keeps a value keeps an old one. Parts that live as long as the server take `() => …` over it, or an
 * object whose getters read it, and ask each time.
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
