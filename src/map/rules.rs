//! stub until merged
use prost_reflect::DynamicMessage;
#[derive(Debug)]
pub struct Violation {
    pub reason: String,
}
impl Violation {
    pub fn path(&self) -> String {
        String::new()
    }
}
pub fn violations(_: &DynamicMessage) -> Vec<Violation> {
    vec![]
}
