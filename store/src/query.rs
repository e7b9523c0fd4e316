//! Pages, single flows and volumes.

use crate::columns::{Cells, Layout, Rows};
use crate::embedded::Embedded;
use crate::file::{Wanted, overlaps};
use crate::filter::{Check, Filter};
use crate::language;
use crate::scan::{Key, Question, Snapshot, find, is_allowed};
use crate::types::{FlowDetail, Page, Peer, QueryError, Request, StoreError, VolumeBucket};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thymus_record::{Address, FlowUid, NetworkPath, Scope, Table, Time, Value};

/// Most items on a page.
const LIMIT_MAX: usize = 1000;
/// Ports shown for a peer.
const PORTS_MAX: usize = 16;
/// Peers counted for one endpoint; a scanner has more, and the rest is left out.
const PEERS_MAX: usize = 100_000;

impl Embedded {
    /// One page of a table. Runs on a blocking thread of the caller's tokio runtime.
    pub async fn query(&self, request: &Request) -> Result<Page, QueryError> {
        let (snapshot, request) = (self.snapshot(), request.clone());
        blocking(move || page(&snapshot, &request)).await
    }

    /// One flow by its uid, or by that of another sensor's view of it. `None` if it is unknown or out of scope.
    pub async fn flow(&self, uid: FlowUid, scope: &Scope) -> Result<Option<FlowDetail>, QueryError> {
        let (snapshot, scope) = (self.snapshot(), scope.clone());
        blocking(move || detail(&snapshot, uid, scope)).await
    }

    /// What an endpoint moved in `buckets` equal spans from `from` up to `to`.
    pub async fn flow_volume(
        &self,
        scope: &Scope,
        endpoint: (&NetworkPath, Address),
        (from, to): (Time, Time),
        buckets: usize,
    ) -> Result<Vec<VolumeBucket>, QueryError> {
        let rows = Arc::new(EndpointRows::new(scope, endpoint, Some(from), Some(to)));
        let snapshot = self.snapshot();
        blocking(move || Ok(volume(&snapshot, &rows, (from, to), buckets.clamp(1, LIMIT_MAX))?)).await
    }

    /// Whom an endpoint talked to, most bytes first.
    pub async fn top_peers(
        &self,
        scope: &Scope,
        endpoint: (&NetworkPath, Address),
        from: Option<Time>,
        to: Option<Time>,
        limit: usize,
    ) -> Result<Vec<Peer>, QueryError> {
        let rows = Arc::new(EndpointRows::new(scope, endpoint, from, to));
        let snapshot = self.snapshot();
        blocking(move || Ok(peers(&snapshot, &rows, limit.min(LIMIT_MAX))?)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    let failed = |error| StoreError::Io { what: "running a query".into(), error: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn page(snapshot: &Snapshot, request: &Request) -> Result<Page, QueryError> {
    let layout = Layout::of(request.table);
    let bad = |error: language::SyntaxError| QueryError::Bad(error.to_string());
    let expr = request.q.as_deref().map_or(Ok(None), language::parse).map_err(bad)?;
    let mut filter = expr.map(|expr| Filter::bind(&expr, layout)).transpose().map_err(bad)?;
    if let Some(filter) = &mut filter {
        resolve_uids(snapshot, filter)?;
    }
    let after = request.cursor.as_deref().map(read_cursor).transpose()?;
    let question = Question { layout, filter, scope: request.scope.clone(), from: request.from, to: request.to, after };
    let found = find(snapshot, &question, request.limit.clamp(1, LIMIT_MAX))?;
    let mut items = Vec::with_capacity(found.items.len());
    for (_, folded) in &found.items {
        let mut text = String::with_capacity(768);
        match request.table {
            Table::Flow => folded.write_flow(layout, &mut text),
            _ => folded.write_row(layout, &mut text),
        }
        items.push(
            RawValue::from_string(text)
                .map_err(|error| StoreError::Io { what: "writing JSON".into(), error: error.into() })?,
        );
    }
    Ok(Page { items, next: found.next.map(|key| write_cursor(&key)) })
}

fn write_cursor((ts, uid, within): &Key) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {uid} {within}", ts.0))
}

fn read_cursor(text: &str) -> Result<Key, QueryError> {
    let key = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = text.split(' ');
        let key = (Reverse(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(key)
    };
    key().ok_or_else(|| QueryError::Bad("the cursor is not one that a page gave as \"next\"".into()))
}

/// Puts the conversation's uid in place of a uid that another sensor gave it.
fn resolve_uids(snapshot: &Snapshot, filter: &mut Filter) -> Result<(), StoreError> {
    let mut failed = None;
    filter.map_uids(&mut |uid| match resolve(snapshot, uid) {
        Ok(resolved) => resolved,
        Err(error) => {
            failed = Some(error);
            uid
        }
    });
    failed.map_or(Ok(()), Err)
}

fn resolve(snapshot: &Snapshot, uid: FlowUid) -> Result<FlowUid, StoreError> {
    let layout = Layout::of(Table::Flow);
    let rows = Arc::new(OwnUid { filter: Filter::Uid(uid), uid });
    let mut found = uid;
    each_row(
        snapshot,
        layout,
        &rows,
        None,
        |_| true,
        |rows| {
            found = rows.iter().next().map_or(found, |row| row.flow_key(layout).1);
        },
    )?;
    Ok(found)
}

fn detail(snapshot: &Snapshot, uid: FlowUid, scope: Scope) -> Result<Option<FlowDetail>, QueryError> {
    let layout = Layout::of(Table::Flow);
    let filter = Some(Filter::Uid(resolve(snapshot, uid)?));
    let found = find(snapshot, &Question { layout, filter, scope, from: None, to: None, after: None }, 1)?;
    let Some((_, flow)) = found.items.into_iter().next() else { return Ok(None) };
    let end = |host: &str, port: &str| {
        let address = layout.place(host).map(|place| flow.cell(place));
        let port = layout.place(port).map_or(0, |place| flow.unsigned(place));
        let address = if let Some(Value::Address(address)) = address { address } else { Address::default() };
        (address, u16::try_from(port).unwrap_or_default())
    };
    let proto = layout.place("proto").map(|place| flow.cell(place));
    Ok(Some(FlowDetail {
        uid: flow.uid,
        network: NetworkPath::from_text(&flow.text(layout.network)),
        orig: end("id.orig_h", "id.orig_p"),
        resp: end("id.resp_h", "id.resp_p"),
        proto: if let Some(Value::Proto(proto)) = proto { proto } else { Default::default() },
        first: flow.ts,
        last: Time(flow.unsigned(layout.until)),
        sensors: flow.sensors().to_vec(),
    }))
}

/// Gives the accepted rows of memory and of the files that `in_file` lets through.
fn each_row<W: Wanted>(
    snapshot: &Snapshot,
    layout: &'static Layout,
    wanted: &Arc<W>,
    columns: Option<&[usize]>,
    in_file: impl Fn(&crate::file::FileMeta) -> bool,
    mut each: impl FnMut(Rows),
) -> Result<(), StoreError> {
    for rows in snapshot.memory_of(layout.table) {
        for row in (0..rows.len()).filter(|&row| wanted.accepts(&rows.row(row))) {
            each(Rows::new(layout, rows.batch.slice(row, 1)));
        }
    }
    for file in snapshot.files_of(layout.table).into_iter().filter(|file| in_file(&file.meta)) {
        file.read(layout, wanted, columns, &mut each)?;
    }
    Ok(())
}

/// Rows that a sensor gave this uid itself.
struct OwnUid {
    filter: Filter,
    uid: FlowUid,
}

impl Wanted for OwnUid {
    fn hint(&self) -> Option<&Filter> {
        Some(&self.filter)
    }
    fn places(&self) -> Vec<usize> {
        Layout::of(Table::Flow).identity()
    }
    fn accepts(&self, row: &impl Cells) -> bool {
        row.uid(Layout::of(Table::Flow)) == self.uid
    }
}

/// The flow rows of one endpoint that count, by the end of their span.
struct EndpointRows {
    layout: &'static Layout,
    scope: Scope,
    network: String,
    address: Address,
    filter: Filter,
    ends: (usize, usize),
    from: Option<Time>,
    to: Option<Time>,
}

impl EndpointRows {
    fn new(
        scope: &Scope,
        (network, address): (&NetworkPath, Address),
        from: Option<Time>,
        to: Option<Time>,
    ) -> EndpointRows {
        let layout = Layout::of(Table::Flow);
        let ends = (layout.place("id.orig_h").unwrap_or_default(), layout.place("id.resp_h").unwrap_or_default());
        let filter = Filter::Any(vec![ends.0, ends.1], Check::Address(address.0, address.0));
        let network = network.as_str().to_owned();
        EndpointRows { layout, scope: scope.clone(), network, address, filter, ends, from, to }
    }

    /// Gives each row as (is the originator, row).
    fn each(&self, rows: &Rows, mut each: impl FnMut(bool, &crate::columns::RowView<'_>)) {
        rows.iter().for_each(|row| each(row.cell(self.ends.0) == Value::Address(self.address), &row));
    }
}

impl Wanted for EndpointRows {
    fn hint(&self) -> Option<&Filter> {
        Some(&self.filter)
    }
    fn places(&self) -> Vec<usize> {
        let layout = self.layout;
        vec![self.ends.0, self.ends.1, layout.network, layout.until, layout.primary()]
    }
    fn accepts(&self, row: &impl Cells) -> bool {
        let layout = self.layout;
        let until = Time(row.unsigned(layout.until));
        self.filter.passes(row, layout)
            && row.cell(layout.primary()) == Value::Flag(true)
            && self.from.is_none_or(|from| until >= from)
            && self.to.is_none_or(|to| until < to)
            && row.text(layout.network) == self.network
            && is_allowed(&self.scope, row, layout)
    }
}

/// The columns that volumes read, as places of originator's and responder's IP bytes and the responder's port.
fn volume_places(layout: &Layout) -> [usize; 3] {
    ["orig_ip_bytes", "resp_ip_bytes", "id.resp_p"].map(|name| layout.place(name).unwrap_or_default())
}

fn volume(
    snapshot: &Snapshot,
    wanted: &Arc<EndpointRows>,
    (from, to): (Time, Time),
    buckets: usize,
) -> Result<Vec<VolumeBucket>, StoreError> {
    let layout = wanted.layout;
    let [orig, resp, _] = volume_places(layout);
    let width = to.since(from).div_ceil(buckets as u64).max(1);
    let start = |at: usize| from + width.saturating_mul(at as u64);
    let mut volumes: Vec<VolumeBucket> =
        (0..buckets).map(|at| VolumeBucket { ts: start(at), ..VolumeBucket::default() }).collect();
    let columns = [wanted.ends.0, layout.until, layout.ordinal, orig, resp];
    let in_file = |meta: &crate::file::FileMeta| overlaps(meta.until, Some(from), Some(to));
    each_row(snapshot, layout, wanted, Some(&columns), in_file, |rows| {
        wanted.each(&rows, |is_orig, row| {
            let at = Time(row.unsigned(layout.until)).since(from) / width;
            let Some(bucket) = usize::try_from(at).ok().and_then(|at| volumes.get_mut(at)) else { return };
            let (sent, got) = if is_orig { (orig, resp) } else { (resp, orig) };
            bucket.out_bytes = bucket.out_bytes.saturating_add(row.unsigned(sent));
            bucket.in_bytes = bucket.in_bytes.saturating_add(row.unsigned(got));
            bucket.flows += u64::from(row.unsigned(layout.ordinal) == 0);
        });
    })?;
    Ok(volumes)
}

#[derive(Default)]
struct PeerSums {
    bytes: u64,
    flows: u64,
    ports: BTreeSet<u16>,
}

fn peers(snapshot: &Snapshot, wanted: &Arc<EndpointRows>, limit: usize) -> Result<Vec<Peer>, StoreError> {
    let layout = wanted.layout;
    let [orig, resp, port] = volume_places(layout);
    let columns = [wanted.ends.0, wanted.ends.1, layout.ordinal, orig, resp, port];
    let mut sums: BTreeMap<Address, PeerSums> = BTreeMap::new();
    let in_file = |meta: &crate::file::FileMeta| overlaps(meta.until, wanted.from, wanted.to);
    each_row(snapshot, layout, wanted, Some(&columns), in_file, |rows| {
        wanted.each(&rows, |is_orig, row| {
            let Value::Address(peer) = row.cell(if is_orig { wanted.ends.1 } else { wanted.ends.0 }) else { return };
            if sums.len() >= PEERS_MAX && !sums.contains_key(&peer) {
                return;
            }
            let sum = sums.entry(peer).or_default();
            sum.bytes = sum.bytes.saturating_add(row.unsigned(orig)).saturating_add(row.unsigned(resp));
            sum.flows += u64::from(row.unsigned(layout.ordinal) == 0);
            if sum.ports.len() < PORTS_MAX {
                sum.ports.extend(u16::try_from(row.unsigned(port)));
            }
        });
    })?;
    let mut peers: Vec<Peer> = sums
        .into_iter()
        .map(|(address, sum)| Peer {
            address,
            bytes: sum.bytes,
            flows: sum.flows,
            ports: sum.ports.into_iter().collect(),
        })
        .collect();
    peers.sort_by_key(|peer| (Reverse(peer.bytes), peer.address));
    peers.truncate(limit);
    Ok(peers)
}
