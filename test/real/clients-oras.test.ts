/** What the real oras gets, with nothing cached, with everything, and when the registry is gone. */
import { oras } from './clients/oras.ts'
import { testClient } from './clients/table.ts'

testClient(oras)
