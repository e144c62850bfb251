//! The page: mounts the front end.

fn main() {
    edgecoder_page::mount();
}
