//! The order of nodes: names resolved, defined once, and no cycle.

use super::error::ImportError;
use super::proto::{GraphProto, NodeProto};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// What a node is called in errors.
pub(super) fn label(index: usize, node: &NodeProto) -> String {
    if node.name.is_empty() { format!("#{index}") } else { node.name.clone() }
}

/// Indexes of the nodes so that each comes after those whose results it uses, as close to the file's
/// order as possible. `given` are the names of inputs and initializers.
pub(super) fn topological(
    graph: &GraphProto,
    given: &HashSet<&str>,
) -> Result<Vec<usize>, ImportError> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if given.contains(output.as_str()) || producer.insert(output, i).is_some() {
                return Err(ImportError::Redefined {
                    tensor: output.clone(),
                    definer: format!("node `{}`", label(i, node)),
                });
            }
        }
    }
    let mut needs: Vec<Vec<usize>> = Vec::with_capacity(graph.node.len());
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    for (i, node) in graph.node.iter().enumerate() {
        let mut before = Vec::new();
        for input in node.input.iter().filter(|n| !n.is_empty()) {
            match producer.get(input.as_str()) {
                Some(&p) => before.push(p),
                None if given.contains(input.as_str()) => {}
                None => {
                    return Err(ImportError::Undefined {
                        user: format!("node `{}`", label(i, node)),
                        tensor: input.clone(),
                    });
                }
            }
        }
        before.sort_unstable();
        before.dedup();
        for &p in &before {
            users[p].push(i);
        }
        needs.push(before);
    }
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waiting.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() == waiting.len() {
        return Ok(order);
    }
    let nodes = cycle(&needs, &waiting);
    Err(ImportError::Cycle { nodes: nodes.into_iter().map(|i| label(i, &graph.node[i])).collect() })
}

/// One cycle among the nodes that still wait: each of them waits for another such node, so following
/// the needs must come back.
fn cycle(needs: &[Vec<usize>], waiting: &[usize]) -> Vec<usize> {
    let mut at = waiting.iter().position(|&w| w > 0).unwrap_or(0);
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut path = Vec::new();
    while !seen.contains_key(&at) {
        seen.insert(at, path.len());
        path.push(at);
        at = needs[at].iter().copied().find(|&p| waiting[p] > 0).unwrap_or(at);
    }
    let mut nodes = path.split_off(seen[&at]);
    nodes.reverse();
    let first = nodes.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(i, _)| i);
    nodes.rotate_left(first);
    nodes
}
