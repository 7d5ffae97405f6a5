//! The committed table of conflicts has all that there are.

use anonmem_lab::scale::{study, table};

#[test]
fn no_conflict_is_new() {
    let whole = study::whole();
    let committed = table::read(include_str!("../../../docs/scale.toml")).expect("the committed table");
    let difference = table::compare(&whole, &committed);
    for gone in &difference.gone {
        println!("no longer a conflict: {gone}");
    }
    let (new, all) = (&difference.new, difference.new.join("\n"));
    assert!(new.is_empty(), "{} new conflicts; see docs/scale.md:\n{all}", new.len());
}
