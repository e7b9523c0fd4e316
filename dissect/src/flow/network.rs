//! Network paths as 32-bit numbers: the group of the port that delivered the frame, extended by the layers met inside.

use crate::Frame;
use crate::decode::Layers;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use thymus_record::NetworkPath;

/// Most paths that a shard tells apart; a port's own path stands in for what comes after.
const NETWORKS_MAX: usize = 16_384;

/// Most groups of agents.
const ROOTS_MAX: usize = 4_096;

/// Where a path begins: the port that delivered the frame, and the agent's group, or 0 for the port's own.
pub type Root = (u16, u16);

/// Groups of agents, each the root of its own network path. They come while the sensor runs, and all workers share them.
#[derive(Debug, Default)]
pub struct Roots(RwLock<Vec<String>>);

impl Roots {
    /// The number of a group, from 1; 0, which is the port's own group, where there are too many.
    pub fn number(&self, group: &str) -> u16 {
        let mut roots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = roots.iter().position(|root| root == group);
        let at = known.or_else(|| {
            (roots.len() < ROOTS_MAX).then(|| {
                roots.push(group.to_owned());
                roots.len() - 1
            })
        });
        at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or_default()
    }

    /// The group of a number.
    pub fn group(&self, number: u16) -> Option<String> {
        let at = usize::from(number).checked_sub(1)?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(at).cloned()
    }
}

/// Paths interned by one worker.
#[derive(Debug, Default)]
pub struct NetworkTable {
    groups: Vec<String>,
    roots: Arc<Roots>,
    numbers: HashMap<(Root, Layers), u32>,
    paths: Vec<NetworkPath>,
    last: Option<(Root, Layers, u32)>,
    refused: u64,
}

impl NetworkTable {
    /// A table for ports whose groups are given by port number.
    pub fn new(groups: &[&str]) -> NetworkTable {
        NetworkTable::with_roots(groups, Arc::default())
    }

    /// A table for ports, and for agents of these groups.
    pub fn with_roots(groups: &[&str], roots: Arc<Roots>) -> NetworkTable {
        let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        let mut table = NetworkTable { groups, roots, ..Self::default() };
        for port in 0..table.groups.len() {
            table.number((u16::try_from(port).unwrap_or_default(), 0), &Layers::default());
        }
        table
    }

    /// The number of a frame's path.
    #[inline]
    pub fn of(&mut self, frame: &Frame<'_>, layers: &Layers) -> u32 {
        self.number((frame.port, frame.origin.root), layers)
    }

    /// The number of a path. The last one asked for costs one comparison.
    #[inline]
    pub fn number(&mut self, root: Root, layers: &Layers) -> u32 {
        match &self.last {
            Some((last_root, last_layers, number)) if *last_root == root && last_layers.is(layers) => *number,
            _ => self.look_up(root, layers),
        }
    }

    fn look_up(&mut self, root: Root, layers: &Layers) -> u32 {
        let number = match self.numbers.get(&(root, *layers)) {
            Some(number) => *number,
            None if self.paths.len() >= NETWORKS_MAX => {
                self.refused += 1;
                self.numbers.get(&(root, Layers::default())).copied().unwrap_or_default()
            }
            None => {
                let of_port = || self.groups.get(usize::from(root.0)).map_or("default", String::as_str).to_owned();
                let group = self.roots.group(root.1).unwrap_or_else(of_port);
                let layers_inside: Vec<_> = layers.iter().collect();
                let path = NetworkPath::new(&group, &layers_inside);
                // Ports of one group share its paths, so that both directions meet also across ports.
                let known = self.paths.iter().position(|each| *each == path);
                let number = u32::try_from(known.unwrap_or(self.paths.len())).unwrap_or_default();
                if known.is_none() {
                    self.paths.push(path);
                }
                self.numbers.insert((root, *layers), number);
                number
            }
        };
        self.last = Some((root, *layers, number));
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
        let blue = table.number((0, 0), &layers(7));
        assert_eq!(table.number((1, 0), &layers(7)), blue);
        assert_ne!(table.number((2, 0), &layers(7)), blue);
        assert_eq!(table.path(blue).as_str(), "blue/vxlan:7");
        for id in 0..20_000 {
            table.number((0, 0), &layers(id));
        }
        assert!(table.refused() > 0);
        assert_eq!(table.path(u32::MAX).as_str(), "default");
    }

    #[test]
    fn an_agent_s_group_is_the_root_whatever_port_its_frames_come_by() {
        let roots: Arc<Roots> = Arc::default();
        let mut table = NetworkTable::with_roots(&["blue", "blue"], Arc::clone(&roots));
        let (green, blue) = (roots.number("green"), roots.number("blue"));
        assert_eq!((green, blue, roots.number("green")), (1, 2, 1));
        let number = table.number((1, green), &layers(7));
        assert_eq!(table.path(number).as_str(), "green/vxlan:7");
        assert_eq!(table.number((1, blue), &Layers::default()), table.number((0, 0), &Layers::default()));
        assert_eq!(table.number((1, 9_999), &Layers::default()), 0, "a number that nobody gave out");
    }
}
