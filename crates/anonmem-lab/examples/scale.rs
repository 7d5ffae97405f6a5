//! Prints the committed table of conflicts as it should be: what `anonmem scale --record` writes.

fn main() {
    print!("{}", anonmem_lab::scale::table::write(&anonmem_lab::scale::study::whole()));
}
