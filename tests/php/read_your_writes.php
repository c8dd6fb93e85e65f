<?php
// Writes a row and reads it back at once, again and again. Prints a line of JSON.
//
//   php read_your_writes.php PORT ROUNDS same|next
//
// same: on the same connection; next: by another connection that is open already.
declare(strict_types=1);

[$port, $rounds, $mode] = [(int) $argv[1], (int) $argv[2], $argv[3]];
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$writer = new mysqli('127.0.0.1', 'app', 'app-secret', 'app', $port);
$reader = $mode === 'same' ? $writer : new mysqli('127.0.0.1', 'app', 'app-secret', 'app', $port);
$writer->query('CREATE TABLE IF NOT EXISTS ryw (id INT AUTO_INCREMENT PRIMARY KEY, v INT NOT NULL)');

[$stale, $replica] = [0, 0];
for ($i = 0; $i < $rounds; $i++) {
    $writer->query("INSERT INTO ryw (v) VALUES ($i)");
    $id = $writer->insert_id;
    $row = $reader->query("SELECT v, @@server_id FROM ryw WHERE id = $id")->fetch_row();
    if ($row === null || (int) $row[0] !== $i) {
        $stale++;
    } elseif ($row[1] !== '1') {
        $replica++;
    }
}
echo json_encode(['rounds' => $rounds, 'stale' => $stale, 'replica' => $replica]), "\n";
