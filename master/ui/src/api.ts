// The master's API as the page uses it. Errors are the master's own words (problem+json, "detail").

export class ApiError extends Error {
  constructor(public status: number, message: string) {
    super(message);
  }
}

export interface Count { packets: number; bytes: number }
export interface Ledger {
  offered: Count; missed: Count; received: Count; stored: Count; in_ring: Count; not_kept: Count;
  duplicate: Count; filtered: Count; shed: Count; error: Count;
  records: { made: number; sent: number; spooled: number; shed: number };
  metadata_bytes: number; ring_bytes: number; index_bytes: number; cut_bytes: number;
}
export interface Health {
  state: string; items: string[]; ledger: Ledger; ports: { name: string; state: string; mbps: number; pps: number }[];
  busy_ratio: number; headroom_mbps: number; headroom_pps: number; ring_oldest: number | null; flows_open: number;
}
export interface Sensor {
  id: string; name: string; group: string; revoked: boolean; kind: string; through: string | null; agent: any; connected: boolean; since: number | null; last_seen: number | null;
  software: string; health: Health | null;
}
export interface Policy {
  mode: string; snaplen: number; head_bytes: number; filter: string; include: string[]; exclude: string[]; cpu_percent_max: number; mbps_max: number;
}
export interface PolicyEntry { group?: string; agent?: string; set: boolean; words: string; policy: Policy }
export interface Agent {
  id: string; name: string; group: string; revoked: boolean; through: string | null; connected: boolean; last_seen: number | null;
  policy: { from: "agent" | "group" | "default"; words: string; policy: Policy };
  agent: {
    address: string; interfaces: string[]; items: string[];
    ledger: { seen: Count; sent: Count; left: Count; filtered: Count; shed: Count; metadata: Count };
    state: { mode: string; sent_mbps: number; seen_mbps: number; cpu_percent: number; rss_bytes: number; members: number[]; members_count: number; members_relied: number; items: string[] };
  } | null;
}
export interface Device {
  id: string; network: string; name: string | null; addresses: string[]; macs: string[]; names: string[];
  first_seen: number; last_seen: number; kind: string; orig_bytes: number; resp_bytes: number; flows: number;
  evidence: string[]; sensors: string[];
  timeline?: { ts: number; in_bytes: number; out_bytes: number; flows: number }[];
  peers?: { address: string; device: string | null; name: string | null; bytes: number; flows: number; ports: (string | number)[] }[];
}
export type Row = Record<string, any>;
export interface Page<T> { items: T[]; next: string | null }
export interface Session { user: string; role: string; scope: unknown }
export interface LedgerPage {
  total: Ledger; sensors: { id: string; name: string; ledger: Ledger }[]; imbalances: string[];
  minutes: { ts: number; sensor: string; port: string; [key: string]: any }[];
}

async function request(path: string, options: RequestInit = {}): Promise<Response> {
  const answer = await fetch("/api/v1" + path, { credentials: "same-origin", ...options });
  if (answer.ok) return answer;
  let words = `${answer.status} ${answer.statusText}`;
  try {
    const problem = await answer.json();
    words = problem.detail || problem.title || words;
  } catch { /* no JSON: the status line has to do */ }
  throw new ApiError(answer.status, words);
}

export async function get<T>(path: string, query: Record<string, string | number | undefined | null> = {}): Promise<T> {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(pairs.map(([key, value]) => [key, String(value)])).toString();
  return (await request(path + (text ? "?" + text : ""))).json();
}

export async function send(method: string, path: string, body?: unknown): Promise<any> {
  const headers = body === undefined ? undefined : { "Content-Type": "application/json" };
  const answer = await request(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Fetches packets and offers them as a file; throws the master's reason where there are none. */
export async function savePackets(query: Record<string, string>, name: string, progress: (bytes: number) => void): Promise<number> {
  const answer = await request("/packets?" + new URLSearchParams(query));
  const reader = answer.body!.getReader();
  const parts: BlobPart[] = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value as BlobPart);
    bytes += value.length;
    progress(bytes);
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type: "application/x-pcapng" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return bytes;
}

/** Live updates: calls back for each event until closed; the browser reconnects by itself. */
export function live(kinds: string[], each: (kind: string, item: any) => void, state: (up: boolean) => void): () => void {
  const source = new EventSource("/api/v1/live");
  for (const kind of kinds) source.addEventListener(kind, (event) => each(kind, JSON.parse((event as MessageEvent).data)));
  source.onopen = () => state(true);
  source.onerror = () => state(false);
  return () => source.close();
}
