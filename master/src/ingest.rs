//! Batches in: written to the journal, synced together with what came meanwhile, then acknowledged. A sensor hears of a
//! batch only when it is safe.

use crate::bearer::{Bearer, bearer};
use crate::clock::{monotonic, wall};
use crate::policies;
use crate::sensors::AnswerPart;
use crate::server::Master;
use base64::Engine;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use thymus_link::Role;
use thymus_link::issuer::RENEW_BEFORE;
use thymus_link::listener::{SensorLink, SensorPeer};
use thymus_link::{FromSensor, LinkReceiver, LinkSender};
use thymus_record::batch::head;
use thymus_record::message::{Held, Hello, ToMaster, ToSensor, VERSIONS};
use thymus_record::{BootId, SensorId, Time};
use thymus_store::{Arrival, Ingested};
use tokio::sync::mpsc;

/// Batches of one connection waiting for the journal: back-pressure reaches the sensor through TCP.
const QUEUE: usize = 64;
/// Batches synced together at most.
const TOGETHER_MAX: usize = 1_024;
/// How often certificates are looked at.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// Serves a sensor until its connection ends.
pub async fn serve(master: Arc<Master>, peer: SensorPeer, link: SensorLink) {
    let sensor = peer.sensor;
    let Ok(Some(mut entry)) = master.book.sensor(sensor) else {
        tracing::warn!("sensor {} is not in the book; it was restored without it?", sensor.0);
        return;
    };
    entry.last_seen = Some(wall());
    entry.software = peer.hello.software.chars().take(64).collect();
    let _ = master.book.put_sensor(&entry);
    let held = match tokio::task::spawn_blocking({
        let store = Arc::clone(&master.store);
        move || store.sync().map(|()| store.held(sensor))
    })
    .await
    {
        Ok(Ok(held)) => held,
        _ => return,
    };
    let hello = Hello {
        versions: VERSIONS.to_vec(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        sensor,
        held,
        ..Hello::default()
    };
    let (sender, receiver) = link.split(hello);
    let connection =
        master.sensors.connect(sensor, sender.clone(), peer.address.to_string(), &peer.hello.agents, wall());
    tracing::info!("sensor {} ({}) connected from {}", sensor.0, entry.name, peer.address);
    if !peer.hello.agents.is_empty() {
        for homes in master.groups.welcome(sensor.0, &master.book, monotonic()) {
            sender.send(homes).await;
        }
    }
    let (batches, queue) = mpsc::channel(QUEUE);
    let takes_agents = !peer.hello.agents.is_empty();
    let (arrival, expires) = ((entry.name.clone(), entry.group.clone()), peer.expires);
    let writer = tokio::task::spawn_blocking({
        let (master, sender) = (Arc::clone(&master), sender.clone());
        move || store_batches(&master, &peer, arrival, queue, &sender)
    });
    let renewing = tokio::spawn(renew(sender.clone(), expires));
    let ordering = takes_agents.then(|| tokio::spawn(order(Arc::clone(&master), sender.clone())));
    let cut = master.sensors.cut_off(sensor);
    let ended = tokio::select! {
        ended = listen(&master, sensor, receiver, batches, &sender) => ended,
        () = cut => "cut off: it was revoked".to_owned(),
    };
    renewing.abort();
    ordering.inspect(tokio::task::JoinHandle::abort);
    master.sensors.disconnect(sensor, connection);
    let _ = writer.await;
    if let Ok(Some(mut entry)) = master.book.sensor(sensor) {
        entry.last_seen = Some(wall());
        let _ = master.book.put_sensor(&entry);
    }
    tracing::info!("sensor {} ({}) disconnected: {ended}", sensor.0, entry.name);
}

async fn listen(
    master: &Master,
    sensor: SensorId,
    mut receiver: LinkReceiver,
    batches: mpsc::Sender<Vec<u8>>,
    sender: &LinkSender,
) -> String {
    loop {
        match receiver.next().await {
            Err(error) => return thymus_link::cure::ended(&error),
            Ok(None) => return "closed by the sensor".to_owned(),
            Ok(Some(FromSensor::Batch(bytes))) => {
                if batches.send(bytes).await.is_err() {
                    return "the store takes no more batches".to_owned();
                }
            }
            Ok(Some(FromSensor::Packets { query, bytes })) => {
                master.sensors.answered(sensor, query, AnswerPart::Piece(bytes)).await;
            }
            Ok(Some(FromSensor::Control(message))) => match message {
                ToMaster::Health(health) => {
                    master.sensors.set_health(sensor, *health);
                    master.tell_sensor(sensor);
                }
                ToMaster::QueryEnd { id, report } => {
                    master.sensors.answered(sensor, id, AnswerPart::End(report)).await;
                }
                ToMaster::QueryFailed { id, why } => {
                    master.sensors.answered(sensor, id, AnswerPart::Failed(why)).await;
                }
                ToMaster::Renew { request } => sign_next(master, sensor, &request, sender),
                ToMaster::Agents { connected, agents } => master.sensors.set_agents(sensor, &connected, agents),
                ToMaster::FilterChecked { id, wrong } => master.sensors.filter_checked(sensor, id, wrong),
                ToMaster::AgentRenew { agent, request, chain } => {
                    sender.try_send(renew_agent(master, agent, &request, &chain));
                }
                ToMaster::Group { events } => master.groups.hear(sensor.0, &events, &master.book, monotonic()),
                ToMaster::Hello(_) | ToMaster::Unknown => {}
            },
        }
    }
}

/// Asks the sensor for a request once its certificate has lived a third of its life, and again while none came.
async fn renew(sender: LinkSender, expires: Time) {
    let mut hours = tokio::time::interval(RENEW_EVERY);
    loop {
        hours.tick().await;
        if expires.since(wall()) < RENEW_BEFORE {
            sender.send(ToSensor::Renew {}).await;
        }
    }
}

/// Tells a vSensor what its OS-sensors are to do, now and at each change.
async fn order(master: Arc<Master>, sender: LinkSender) {
    let mut changes = master.orders.subscribe();
    loop {
        changes.mark_unchanged();
        let asking = Arc::clone(&master);
        let entries = tokio::task::spawn_blocking(move || asking.book.sensors()).await;
        match entries {
            Ok(Ok(entries)) => {
                let orders = policies::current(&master).orders(&entries);
                if !sender.send(ToSensor::Agents(Box::new(orders))).await {
                    return;
                }
            }
            failed => tracing::error!("the orders for OS-sensors cannot be read: {failed:?}"),
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The next certificate of an OS-sensor that asks through its vSensor, or why not.
fn renew_agent(master: &Master, agent: u32, request: &str, chain: &str) -> ToSensor {
    let signed = || {
        let entry = policies::agent_entry(master, agent).map_err(|error| error.to_string())?;
        if entry.revoked {
            return Err("it was revoked".to_owned());
        }
        let request = base64::engine::general_purpose::STANDARD.decode(request).unwrap_or_default();
        master.issuer.renew(&request, chain, Role::Agent, agent, wall()).map_err(|error| error.to_string())
    };
    match signed() {
        Ok(chain) => ToSensor::AgentRenewed { agent, chain },
        Err(why) => {
            tracing::warn!("OS-sensor {agent} gets no next certificate: {why}");
            ToSensor::AgentRenewRefused { agent, why }
        }
    }
}

/// Signs the next certificate of a connected sensor.
fn sign_next(master: &Master, sensor: SensorId, request: &str, sender: &LinkSender) {
    let request = base64::engine::general_purpose::STANDARD.decode(request).unwrap_or_default();
    match master.issuer.sign(&request, Role::Sensor, sensor.0, wall()) {
        Ok(chain) => {
            sender.try_send(ToSensor::Renewed { chain });
        }
        Err(error) => tracing::warn!("sensor {} asks for a certificate: {error}", sensor.0),
    }
}

/// Stores what is waiting, syncs once, acknowledges all of it; until the connection ends or the store fails.
fn store_batches(
    master: &Master,
    peer: &SensorPeer,
    (sensor_name, group): (String, String),
    mut queue: mpsc::Receiver<Vec<u8>>,
    sender: &LinkSender,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut stored: HashMap<(SensorId, BootId), Vec<u64>> = HashMap::new();
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(bytes) = next {
            let Ok(head) = head(&bytes).inspect_err(|error| tracing::warn!("sensor {}: {error}", peer.sensor.0)) else {
                return;
            };
            taken += 1;
            let (name, group) = match bearer(&master.book, peer.sensor, &head) {
                Bearer::Own => (sensor_name.clone(), group.clone()),
                Bearer::Agent(name, group) => (name, group),
                Bearer::Unwanted(why) => {
                    tracing::warn!("through sensor {}: {why}: its batch is not stored", peer.sensor.0);
                    let (sensor, boot, ranges) = (head.sensor, head.boot, vec![(head.sequence, head.sequence)]);
                    if !sender.blocking_send(ToSensor::Unwanted(Held { sensor, boot, ranges })) {
                        return;
                    }
                    next = if taken < TOGETHER_MAX { queue.try_recv().ok() } else { None };
                    continue;
                }
                Bearer::Broken(why) => {
                    tracing::warn!("{why}");
                    return;
                }
            };
            let arrival = Arrival { time: wall(), sensor_name: name, group };
            match master.store.ingest(&bytes, arrival) {
                Ok(Ingested::New | Ingested::SeenBefore) => {}
                Ok(Ingested::Fork) => {
                    sender.try_send(ToSensor::Fork { boot: head.boot, sensor: head.sensor });
                }
                Err(error) => {
                    tracing::error!("sensor {}: {error}", peer.sensor.0);
                    return;
                }
            }
            stored.entry((head.sensor, head.boot)).or_default().push(head.sequence);
            next = if taken < TOGETHER_MAX { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = master.store.sync() {
            tracing::error!("{error}");
            return;
        }
        for ((sensor, boot), sequences) in stored {
            let message = ToSensor::Acknowledge(Held { sensor, boot, ranges: ranges_of(sequences) });
            if !sender.blocking_send(message) {
                return;
            }
        }
    }
}

fn ranges_of(mut sequences: Vec<u64>) -> Vec<(u64, u64)> {
    sequences.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for sequence in sequences {
        match ranges.last_mut() {
            Some((_, to)) if sequence <= *to + 1 => *to = sequence.max(*to),
            _ => ranges.push((sequence, sequence)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_are_ascending_and_apart() {
        assert_eq!(super::ranges_of(vec![5, 1, 2, 2, 3, 7, 6]), [(1, 3), (5, 7)]);
    }
}
