import { expect, test } from 'vitest'
import { linkify } from '@/core/linkify'

const links = (text: string): string[] => linkify(text).flatMap((segment) => (segment.href ? [segment.text] : []))
const whole = (text: string): string => linkify(text).map((segment) => segment.text).join('')

test.each([
  ['see https://example.test/a?b=c#d now', ['https://example.test/a?b=c#d']],
  ['(https://example.test/a)', ['https://example.test/a']],
  ['https://example.test/a_(b).', ['https://example.test/a_(b)']],
  ['HTTP://EXAMPLE.TEST, and http://b.test!', ['HTTP://EXAMPLE.TEST', 'http://b.test']],
  ['"https://example.test/"', ['https://example.test/']],
])('%s', (text, found) => {
  expect(links(text)).toEqual(found)
  expect(whole(text)).toBe(text)
})

test.each([
  'javascript:alert(1)',
  'data:text/html,x',
  'xhttp://example.test',
  'http://',
  'https://bank.test@evil.test/',
  'https://user:word@example.test/',
  '<b>no</b>',
  '',
])('no link in %s', (text) => {
  expect(links(text)).toEqual([])
  expect(whole(text)).toBe(text)
})

test('an address ends where an invisible or turning character begins', () => {
  expect(links('https://example.test/\u202efdp.exe')).toEqual(['https://example.test/'])
})

test('a look-alike host is spelt as what it is', () => {
  expect(links('https://аpple.test/')).toEqual(['https://xn--pple-43d.test/'])
})
