import { test } from 'tap'
import { missingAsRoot } from '../support/programs.ts'
import { Dockerd } from './daemons.ts'
import { Harbour, HARBOUR } from './harbour.ts'
import { GREETING } from './image.ts'

const needs = missingAsRoot(...HARBOUR, 'dockerd', 'docker', 'containerd', 'runc')

test(
  'dockerd pulls and runs through registry-mirrors, with the registry and without',
  { skip: needs },
  async (t) => {
    const harbour = await Harbour.open(t)
    const entrepot = await harbour.mirror(t)
    const dockerd = await Dockerd.start(t, entrepot.url)
    await harbour.pullTwice(t, entrepot, 'docker.io', async (image) => {
      await dockerd.docker('pull', '-q', `${image}:1`)
      const said = await dockerd.docker('run', '--rm', '--network', 'none', `${image}:1`)
      t.equal(said.trim(), GREETING, `docker run ${image} prints its greeting`)
      await dockerd.docker('rmi', `${image}:1`)
    })
  },
)
