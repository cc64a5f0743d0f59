/** What the real regctl gets, with nothing cached, with everything, and when the registry is gone. */
import { regctl } from './clients/regctl.ts'
import { testClient } from './clients/table.ts'

testClient(regctl)
