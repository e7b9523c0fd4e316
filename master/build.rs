//! Makes the page's folder if the page was not built, so that the master builds without Node; it then serves a word on
//! how to build it.

use std::path::Path;

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=ui/dist");
    let dist = Path::new("ui/dist");
    std::fs::create_dir_all(dist)?;
    let index = dist.join("index.html");
    if !index.exists() {
        std::fs::write(
            index,
            "<!doctype html><title>Thymus</title><p>The page is not in this build: run scripts/page, then build again. The API is there.</p>",
        )?;
    }
    Ok(())
}
