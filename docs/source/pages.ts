/**
 * Every file that is generated, by its path from the root of the repository, as it should be.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { format, resolveConfig } from 'prettier'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { configurationExample, configurationPage } from './configuration.ts'
import { drawDiagram } from './diagram.ts'

export const ROOT = path.join(import.meta.dirname, '../..')

export async function generatedPages(): Promise<Map<string, string>> {
  return new Map([
    ['config.example.yaml', await formatted('config.example.yaml', configurationExample())],
    ['docs/configuration.md', await formatted('docs/configuration.md', configurationPage())],
    ['docs/monitoring.md', await formatted('docs/monitoring.md', await monitoringPage())],
    ['docs/pull.svg', drawDiagram(sourceOf('pull.txt'))],
    ['docs/push.svg', drawDiagram(sourceOf('push.txt'))],
  ])
}

/** The page as it is, with the table of metrics anew; the rest of it is written by hand. */
async function monitoringPage(): Promise<string> {
  const page = readFileSync(path.join(ROOT, 'docs/monitoring.md'), 'utf8')
  const rows = createMetrics()
    .registry.getMetricsAsArray()
    .map((it) => {
      const { name, help, labelNames, type } = it as unknown as Described
      return `| \`${name}\` | ${type} | ${labelNames.map((label) => `\`${label}\``).join(', ')} | ${help} |`
    })
  const table = ['| metric | kind | labels | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n')
  return page.replace(
    /(<!-- metrics: npm run docs -->\n).*?(\n<!-- end of metrics -->)/s,
    (_, begin: string, end: string) => `${begin}\n${table}\n${end}`,
  )
}

interface Described {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly labelNames: readonly string[]
}

function sourceOf(file: string): string {
  return readFileSync(path.join(import.meta.dirname, file), 'utf8')
}

async function formatted(file: string, text: string): Promise<string> {
  const filepath = path.join(ROOT, file)
  return format(text, { ...(await resolveConfig(filepath)), filepath })
}
