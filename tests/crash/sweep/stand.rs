//! A case that has come to where it is swept, to be played from there for one point after the other.
//!
//! A rollback needs something to roll back: a whole run, or half of one. It is made once for many points, and everything
//! that there is put back before each: what both servers hold, the files of the journal, the devices, and what the auditor
//! has seen. The servers and their addresses stay, as a journal names them.

use std::{
    fs::{self, Permissions},
    path::PathBuf,
};

use stackferry::rehearsal::{auditor::Auditor, device::SimDevice, store::Tables};

use super::{
    cases::{Case, Stage},
    kill::deployments,
    outcome::{self, Stored},
    point::Point,
    scene::{Air, Played, Scene, lock},
};

/// Where it stands.
pub struct Stand {
    scene: Scene,
    swept: Vec<Stage>,
    before: Stored,
    tables: Vec<Tables>,
    files: Vec<(PathBuf, Permissions, Vec<u8>)>,
    devices: Vec<SimDevice>,
    auditor: Option<Auditor>,
}

impl Stand {
    /// Plays the stages that are not swept.
    pub fn new(case: &Case, air: Air) -> Result<Self, String> {
        let (swept, first): (Vec<_>, Vec<_>) = case.stages().into_iter().partition(|stage| stage.swept);
        let mut scene = Scene::new(case, Point::Nowhere, air, false);
        let before = outcome::settled(&scene.world);
        scene.stages(&first)?;
        Ok(Self {
            swept,
            before,
            tables: deployments(&scene.world).iter().map(|tts| tts.store().tables().clone()).collect(),
            files: journal(&scene)
                .map(|path| {
                    let mode = fs::metadata(&path).expect("it is there").permissions();
                    let bytes = fs::read(&path).expect("it can be read");
                    (path, mode, bytes)
                })
                .collect(),
            devices: scene.field.as_ref().map(|field| lock(field).devices.clone()).unwrap_or_default(),
            auditor: scene.auditor.as_ref().map(Auditor::copy),
            scene,
        })
    }

    /// Plays the stages that are swept, from where it stands.
    pub fn play(&mut self, case: &Case, point: Point, air: Air) -> Result<Played, String> {
        self.put_back(point, air);
        self.scene.stages(&self.swept)?;
        self.scene.end(case, air, self.before.clone())
    }

    fn put_back(&mut self, point: Point, air: Air) {
        let scene = &mut self.scene;
        (scene.point, scene.killed, scene.restarts) = (point, false, 0);
        scene.writes.clear();
        scene.killer.aim(point);
        for (tts, tables) in deployments(&scene.world).iter().zip(&self.tables) {
            tts.store().restore(tables).expect("memory");
        }
        journal(scene).for_each(|path| fs::remove_file(path).expect("it is ours"));
        for (path, mode, bytes) in &self.files {
            fs::write(path, bytes).expect("a file");
            fs::set_permissions(path, mode.clone()).expect("it is ours");
        }
        if let (Some(field), Air::After(seed, _)) = (&scene.field, air) {
            let mut field = lock(field);
            field.devices.clone_from(&self.devices);
            field.wrong.clear();
            field.seed = seed;
        }
        // Last: it has seen all that was put back.
        if let (Some(auditor), Some(copy)) = (&scene.auditor, &self.auditor) {
            auditor.restore(copy);
        }
    }
}

fn journal(scene: &Scene) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(scene.world.dir.path()).expect("the folder is there").flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with("test.journal"));
    ours.map(|file| file.path())
}
