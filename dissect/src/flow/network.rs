//! Network paths as 32-bit numbers: the group of the port that delivered the frame, extended by the layers met inside.

use crate::decode::Layers;
use std::collections::HashMap;
use thymus_record::NetworkPath;

/// Most paths that a shard tells apart; a port's own path stands in for what comes after.
const NETWORKS_MAX: usize = 16_384;

/// Paths interned by one worker.
#[derive(Debug, Default)]
pub struct NetworkTable {
    groups: Vec<String>,
    numbers: HashMap<(u16, Layers), u32>,
    paths: Vec<NetworkPath>,
    last: Option<(u16, Layers, u32)>,
    refused: u64,
}

impl NetworkTable {
    /// A table for ports whose groups are given by port number.
    pub fn new(groups: &[&str]) -> NetworkTable {
        let mut table =
            NetworkTable { groups: groups.iter().map(|&group| group.to_owned()).collect(), ..Self::default() };
        for port in 0..groups.len() {
            table.number(u16::try_from(port).unwrap_or_default(), &Layers::default());
        }
        table
    }

    /// The number of a path. The last one asked for costs one comparison.
    #[inline]
    pub fn number(&mut self, port: u16, layers: &Layers) -> u32 {
        match &self.last {
            Some((last_port, last_layers, number)) if *last_port == port && last_layers.is(layers) => *number,
            _ => self.look_up(port, layers),
        }
    }

    fn look_up(&mut self, port: u16, layers: &Layers) -> u32 {
        let number = match self.numbers.get(&(port, *layers)) {
            Some(number) => *number,
            None if self.paths.len() >= NETWORKS_MAX => {
                self.refused += 1;
                self.numbers.get(&(port, Layers::default())).copied().unwrap_or_default()
            }
            None => {
                let group = self.groups.get(usize::from(port)).map_or("default", String::as_str);
                let layers_inside: Vec<_> = layers.iter().collect();
                let path = NetworkPath::new(group, &layers_inside);
                // Ports of one group share its paths, so that both directions meet also across ports.
                let known = self.paths.iter().position(|each| *each == path);
                let number = u32::try_from(known.unwrap_or(self.paths.len())).unwrap_or_default();
                if known.is_none() {
                    self.paths.push(path);
                }
                self.numbers.insert((port, *layers), number);
                number
            }
        };
        self.last = Some((port, *layers, number));
        number
    }

    /// The path of a number.
    pub fn path(&self, number: u32) -> NetworkPath {
        let path = usize::try_from(number).ok().and_then(|at| self.paths.get(at));
        path.cloned().unwrap_or_else(|| NetworkPath::from_text("default"))
    }

    /// Frames whose path found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thymus_record::Layer;

    fn layers(id: u32) -> Layers {
        let mut layers = Layers::default();
        layers.push(Layer::Vxlan(id));
        layers
    }

    #[test]
    fn paths_are_bounded_and_ports_of_a_group_share_them() {
        let mut table = NetworkTable::new(&["blue", "blue", "green"]);
        let blue = table.number(0, &layers(7));
        assert_eq!(table.number(1, &layers(7)), blue);
        assert_ne!(table.number(2, &layers(7)), blue);
        assert_eq!(table.path(blue).as_str(), "blue/vxlan:7");
        for id in 0..20_000 {
            table.number(0, &layers(id));
        }
        assert!(table.refused() > 0);
        assert_eq!(table.path(u32::MAX).as_str(), "default");
    }
}
