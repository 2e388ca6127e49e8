use mirror_common::record::RecordHeader;

use super::*;
use crate::source::Frame;

#[test]
fn a_question_begins_the_watching_and_the_next_one_has_what_passed() {
    let flows = Flows::default();
    let mut sampler = flows.sampler();
    let header = RecordHeader { original_len: 60, ..RecordHeader::default() };
    let frame = Frame::whole(&header, &[9; 60]);
    sampler.look(&[frame; 5]);
    let first = flows.answer();
    assert_eq!((first.flows.len(), first.seconds), (0, 0.0), "nobody had asked");
    sampler.look(&[frame; 5]);
    let second = flows.answer();
    assert_eq!(second.flows.iter().map(|flow| (flow.frames, flow.bytes)).collect::<Vec<_>>(), [(5, 300)]);
    assert!(second.seconds > 0.0 && second.sampled_one_in == 1);
    assert_eq!(flows.answer().flows, []);
}
