/** What the real skopeo gets, with nothing cached, with everything, and when the registry is gone. */
import { skopeo } from './clients/skopeo.ts'
import { testClient } from './clients/table.ts'

testClient(skopeo)
