//! Everything as JSON.

use anonmem_lab::scale::model::cpus;
use anonmem_lab::scale::pair::Use;
use anonmem_lab::scale::{Pair, Relation, mode_name};
use serde_json::{Value, json};

use super::curves;
use super::found::Found;

pub(super) fn text(found: &Found) -> String {
    let mut shares = Vec::new();
    let mut models = Vec::new();
    for (mode, name) in found.modes.iter().enumerate() {
        for relation in Relation::ALL {
            let share = found.study.share(Some(relation), *name);
            shares.push(json!({
                "relation": relation.name(), "lock": mode_name(*name), "free": share.free, "pairs": share.all,
            }));
        }
        let curve = |op: &&_| curves::curve(found, mode, op).map(|rates| (op.name, rates));
        for (op, rates) in found.ops.iter().filter_map(curve) {
            models.push(json!({ "lock": mode_name(*name), "op": op, "operations_per_us": rates }));
        }
    }
    let document = json!({
        "version": 1,
        "simulated": "accesses of the production code, listed on a simulated machine; nothing here is measured \
                      but the transfer, if it says so",
        "transfer_ns": found.prices.transfer_ns,
        "transfer": curves::source(found),
        "access_ns": found.prices.access_ns,
        "interrupt_ns": found.prices.interrupt_ns,
        "shares": shares,
        "pairs": found.study.pairs.iter().map(pair).collect::<Vec<_>>(),
        "cpus": cpus().collect::<Vec<_>>(),
        "models": models,
    });
    format!("{document:#}\n")
}

fn pair(pair: &Pair) -> Value {
    let conflicts: Vec<_> = pair
        .conflicts
        .iter()
        .map(|conflict| json!({ "line": conflict.name, "uses": conflict.uses.iter().map(one_use).collect::<Vec<_>>() }))
        .collect();
    json!({
        "relation": pair.relation.name(),
        "lock": mode_name(pair.mode),
        "ops": pair.ops.map(|op| op.name),
        "conflicts": conflicts,
        "interrupts": pair.cost.interrupts,
    })
}

fn one_use(of: &Use) -> Value {
    json!({ "field": of.field, "writes": of.writes, "visits": of.visits, "at": of.at })
}
