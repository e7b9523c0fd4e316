//! `GET /api/v1/live`: server-sent events of flows, devices and sensors, within the asker's scope, at most 20 a second.

use super::Shared;
use super::lists::{device_json, sensor_json};
use crate::access::Principal;
use crate::server::{Master, Update};
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use thymus_record::json::{Origin, write_row};
use thymus_record::table::FlowKind;
use thymus_record::{FlowUid, Record, Scope};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// 20 events a second.
const PACE: Duration = Duration::from_millis(50);
/// Events waiting for a slow reader; the oldest go.
const WAITING_MAX: usize = 100;

struct Reader {
    master: Arc<Master>,
    scope: Scope,
    updates: Receiver<Update>,
    waiting: VecDeque<Event>,
}

/// The stream.
pub(crate) async fn events(
    State(master): Shared,
    Extension(who): Extension<Principal>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let updates = master.updates.subscribe();
    let reader = Reader { master, scope: who.scope, updates, waiting: VecDeque::new() };
    let stream = futures::stream::unfold(reader, |mut reader| async move {
        loop {
            if let Some(event) = reader.waiting.pop_front() {
                tokio::time::sleep(PACE).await;
                return Some((Ok(event), reader));
            }
            match reader.updates.recv().await {
                Ok(update) => reader.take(&update),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
}

impl Reader {
    fn push(&mut self, kind: &'static str, data: String) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Event::default().event(kind).data(data));
    }

    fn take(&mut self, update: &Update) {
        match update {
            Update::Rows(batch) => {
                let head = &batch.batch.head;
                for (record, mark) in batch.batch.records.iter().zip(&batch.marks) {
                    let Record::Flow(row) = record else { continue };
                    let path = usize::try_from(row.network).ok().and_then(|at| head.networks.get(at));
                    let Some(path) =
                        path.filter(|path| mark.primary && row.kind == FlowKind::End && self.scope.allows(path))
                    else {
                        continue;
                    };
                    let maker = FlowUid { sensor: head.sensor, boot: head.boot, ..FlowUid::default() };
                    let mut data = String::new();
                    write_row(row, Origin { maker, network: path }, &mut data);
                    self.push("flow", data);
                }
            }
            Update::Device(id) => {
                let data = self.master.entities().device(id, &self.scope).map(device_json);
                if let Some(data) = data {
                    self.push("device", data.to_string());
                }
            }
            Update::Sensor(id) => {
                // Which sensors there are is for those who see all networks.
                if let (Scope::All, Ok(Some(entry))) = (&self.scope, self.master.book.sensor(*id)) {
                    let data = sensor_json(&self.master, &entry).to_string();
                    self.push("sensor", data);
                }
            }
        }
    }
}
