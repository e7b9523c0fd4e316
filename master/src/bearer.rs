//! Whose rows a connection may bring: a sensor its own, and those of OS-sensors that were enrolled and not revoked, under
//! the networks of their group. Nobody writes as another sensor.

use crate::book::Book;
use thymus_record::batch::Head;
use thymus_record::{NetworkPath, SensorId};

/// What becomes of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Bearer {
    /// The connection's own, or one that it passes on for the OS-sensor of this name and group.
    Own,
    /// One that it passes on for the OS-sensor of this name and group.
    Agent(String, String),
    /// Of an OS-sensor that may not write it; the text says why.
    Unwanted(String),
    /// The connection breaks the rules; the text says how.
    Broken(String),
}

/// Judges the batch with this head, brought by `peer`.
pub(crate) fn bearer(book: &Book, peer: SensorId, head: &Head) -> Bearer {
    let id = head.sensor.0;
    if head.sensor == peer {
        return Bearer::Own;
    }
    match book.sensor(head.sensor) {
        Ok(Some(entry)) if !entry.agent => {
            Bearer::Broken(format!("sensor {} sent a batch of sensor {id}: refused", peer.0))
        }
        Ok(Some(entry)) if entry.revoked => Bearer::Unwanted(format!("agent {id} ({}) is revoked", entry.name)),
        Ok(Some(entry)) => {
            let root = NetworkPath::new(&entry.group, &[]);
            match head.networks.iter().find(|path| !path.is_within(&root)) {
                Some(path) => Bearer::Unwanted(format!("agent {id} of group {} names the network {path}", entry.group)),
                None => Bearer::Agent(entry.name, entry.group),
            }
        }
        Ok(None) => Bearer::Unwanted(format!("agent {id} is not in the book; it was restored without it?")),
        Err(error) => Bearer::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::SensorEntry;
    use thymus_record::Time;

    #[test]
    fn a_connection_brings_its_own_rows_and_those_of_agents_that_are_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("book")).unwrap();
        for (id, agent, revoked) in [(1, false, false), (2, false, false), (3, true, false), (4, true, true)] {
            let (name, group, software) = (format!("s{id}"), "blue".to_owned(), String::new());
            let entry = SensorEntry { id, name, group, joined: Time(0), last_seen: None, software, revoked, agent };
            book.put_sensor(&entry).unwrap();
        }
        let judge = |sensor, network: &str| {
            let head =
                Head { sensor: SensorId(sensor), networks: vec![NetworkPath::from_text(network)], ..Head::default() };
            bearer(&book, SensorId(1), &head)
        };
        assert_eq!(judge(1, "blue"), Bearer::Own);
        assert!(matches!(judge(2, "blue"), Bearer::Broken(why) if why.contains("batch of sensor 2")));
        assert_eq!(judge(3, "blue/vlan:7"), Bearer::Agent("s3".to_owned(), "blue".to_owned()));
        assert!(matches!(judge(3, "green"), Bearer::Unwanted(why) if why.contains("network green")));
        assert!(matches!(judge(4, "blue"), Bearer::Unwanted(why) if why.contains("revoked")));
        assert!(matches!(judge(9, "blue"), Bearer::Unwanted(_)));
    }
}
