/** What the real helm gets, with nothing cached, with everything, and when the registry is gone. */
import { helm } from './clients/helm.ts'
import { testClient } from './clients/table.ts'

testClient(helm)
